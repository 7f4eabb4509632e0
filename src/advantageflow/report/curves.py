"""Curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curve(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Training reward per iteration and held-out scores, against training time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    minutes = [row["seconds/training"] / 60 for row in rows]
    mean = [row["reward/mean"] for row in rows]
    axes.plot(minutes, mean, color="tab:blue", linewidth=1.5, label="training reward (mean of the iteration)")
    points = [(0.0, summary["before"])]
    points += [(row["seconds/training"] / 60, row["evaluation"]) for row in rows if "evaluation" in row]
    points += [(summary["seconds"]["training"] / 60, summary["after"])]
    labels = [label for label in summary["before"] if label != "tasks"]
    for label, color in zip(labels, ("tab:orange", "tab:green", "tab:red", "tab:purple"), strict=False):
        times, scores = [time for time, _ in points], [scores[label] for _, scores in points]
        axes.plot(times, scores, "o--", color=color, label=f"held-out {label}")
    axes.set_xlabel("training time (minutes)")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
