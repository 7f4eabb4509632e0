"""A rehearsal's figures as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from advantageflow.plan import shown_hours


def print_figures(console: Console, found: Mapping[str, Any]) -> None:
    """What was measured, and beside it what the plan says."""
    done = found["rehearsed"]
    console.print(_times(found))
    console.print(_memory(found))
    layers, parameters = found["adapter"]["layers"], found["adapter"]["parameters"]
    lines = [
        f"rehearsed: one iteration of {done['images']} images, {done['steps']} steps and {done['draws']} draws, on "
        f"{found['device']}, with {found['weights']} weights; all was built in {found['building_seconds']:.0f} s",
        f"trained: {parameters:,} parameters"
        + (f" of {layers} layers, which diffusers loaded as they were exported" if layers else ""),
        f"the whole run: about {shown_hours(found['whole_run_hours'])} hours on this machine, if nothing runs beside "
        f"anything else; its peak by the plan is {found['whole_run_peak_gb']:.1f} GB",
    ]
    if found["device"] == "cpu":
        spent = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in found["cpu_seconds"].items())
        lines.append(f"of processor time, which others at work here do not lengthen: {spent}")
    if found["text_encoders_dropped"]:
        lines.append("the text encoders were dropped after use, and the rewards built after that; a run keeps all")
    for line in (*lines, *found["notes"]):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _times(found: Mapping[str, Any]) -> Table:
    table = Table(title=f"Rehearsal of {found['recipe']}: {found['model']}")
    for name in ("stage", "rehearsed", "seconds", "each", "whole run", "hours"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for row in found["stages"]:
        whole, each = row["whole_run"], row["seconds"] / row["count"] if row["count"] else 0.0
        table.add_row(
            row["stage"],
            f"{row['count']:,} {row['unit']}",
            f"{row['seconds']:.1f}",
            f"{each:.3g} s",
            f"{whole['count']:,}",
            shown_hours(whole["hours"]),
        )
    return table


def _memory(found: Mapping[str, Any]) -> Table:
    table = Table(title="Memory, GB")
    for name in ("", "measured", "the plan"):
        table.add_column(name, justify="left" if name == "" else "right")
    for part, sizes in found["parts_gb"].items():
        table.add_row(f"weights: {part}", f"{sizes['measured']:.2f}", f"{sizes['planned']:.2f}")
    for stage, sizes in found["peak_gb"].items():
        table.add_row(f"peak while {stage}", f"{sizes['measured']:.1f}", f"{sizes['planned']:.1f}")
    return table
