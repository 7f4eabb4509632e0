"""Curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advantageflow.run.history import history

COLORS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")


def each_reward(row: Mapping[str, Any]) -> dict[str, str]:
    """The keys of an iteration that are of one reward among several -> its name, without folders or scheme."""
    keys = [key for key in row if key.startswith("reward/") and key.endswith("/mean") and key != "reward/mean"]
    return {key: key[len("reward/") : -len("/mean")].rpartition("/")[2] for key in keys}


def draw_curve(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Training reward per iteration and held-out scores, against training time.

    Where several rewards are learned from, each has a panel of its own below, since their scales differ.
    """
    from matplotlib.figure import Figure

    several = each_reward(rows[0])
    figure = Figure(figsize=(7, 4 + 2 * len(several)), layout="constrained")
    axes, *panels = figure.subplots(1 + len(several), squeeze=False, height_ratios=[2, *[1] * len(several)])[:, 0]
    minutes = [row["seconds/training"] / 60 for row in rows]
    mean = [row["reward/mean"] for row in rows]
    axes.plot(minutes, mean, color="tab:blue", linewidth=1.5, label="training reward (mean of the iteration)")
    points = history(rows, summary["before"], summary)
    labels = [label for label in summary["before"] if label != "tasks"]
    for label, color in zip(labels, COLORS, strict=False):
        times = [point.seconds / 60 for point in points]
        axes.plot(times, [point.scores[label] for point in points], "o--", color=color, label=f"held-out {label}")
    axes.set_ylabel("score")
    axes.legend()
    for panel, (key, name) in zip(panels, several.items(), strict=True):
        panel.plot(minutes, [row[key] for row in rows], color="tab:blue", linewidth=1)
        panel.set_ylabel(name)
    for panel in (axes, *panels):
        panel.grid(alpha=0.3)
    (axes, *panels)[-1].set_xlabel("training time (minutes)")
    figure.savefig(path, dpi=120)
