"""Tables in Markdown, and on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its header; a column without a name may be the first."""
    head = f"| {' | '.join(columns)} |".replace("|  |", "| |")
    lines = [head, "|---" * len(columns) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join(lines) + "\n"


def folded_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """A table of which nothing is cut: what is too wide goes on in the next line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table
