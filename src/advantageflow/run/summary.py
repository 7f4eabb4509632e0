"""What is said of a run at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from advantageflow.errors import to_type
from advantageflow.run.collapse import lost_variety, variety_warning
from advantageflow.run.directory import RunDirectory
from advantageflow.run.hacking import hacking_warning, untrained
from advantageflow.run.pace import counted
from advantageflow.run.progress import change, say


def print_summary(console: Console, directory: RunDirectory, summary: Mapping[str, Any]) -> None:
    """Scores before and after, what it took, and where everything is."""
    differences = {label: change(found) for label, found in summary["difference"].items()}
    _print_scores(console, {"before": summary["before"], "after": summary["after"]}, differences)
    minutes = summary["seconds"]["training"] / 60
    say(console, f"{counted(summary['iterations'])}, {minutes:.1f} minutes of training")
    say(console, f"pictures: {directory.samples / 'before_after.png'}, {directory.curve}")
    say(console, f"in one page: advantageflow report {to_type(directory.path)}")
    rows = directory.metrics()
    diversity = [row["diversity"] for row in rows]
    if lost_variety(diversity):
        say(console, variety_warning(diversity), "bold yellow")
    if hacked := hacking_warning(rows, summary["difference"], untrained(directory.config())):
        say(console, hacked, "bold yellow")
    if directory.lora.exists():
        say(console, f"adapter for diffusers: {directory.lora}")
    elif (trained := directory.path / "transformer").exists():
        say(console, f"trained transformer, in diffusers' format: {trained}")
        say(console, f"the whole pipeline with it: advantageflow export {to_type(directory.path)} --format merged")


def _print_scores(console: Console, columns: dict[str, dict[str, Any]], differences: dict[str, str]) -> None:
    table = Table(title="Held-out prompts")
    table.add_column("score")
    for name in (*columns, "difference"):
        table.add_column(name, justify="right")
    first = next(iter(columns.values()))
    for label in (label for label in first if label != "tasks"):
        table.add_row(Text(label), *(f"{column[label]:.3f}" for column in columns.values()), differences[label])
    if len(first["tasks"]) > 1:
        table.add_section()
        for task in first["tasks"]:
            table.add_row(Text(f"  {task}"), *(f"{column['tasks'][task]:.3f}" for column in columns.values()))
    console.print(table)
