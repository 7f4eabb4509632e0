"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its header; a column without a name may be the first."""
    head = f"| {' | '.join(columns)} |".replace("|  |", "| |")
    lines = [head, "|---" * len(columns) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join(lines) + "\n"
