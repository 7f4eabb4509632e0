"""A run's held-out scores in order: of the base model, of its evaluations, and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """Held-out scores after so many iterations and seconds of training."""

    iteration: int
    seconds: float
    scores: dict[str, Any]  # label -> mean score, and "tasks"
    difference: dict[str, Any]  # label -> its paired difference to the base model, where that was recorded


def history(
    rows: Iterable[Mapping[str, Any]],
    before: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> list[Point]:
    """All there is.

    Args:
        rows: of metrics.jsonl.
        before: the base model's scores, where they are known.
        summary: of a run that ended, or has scores as it is now: "after", perhaps with their "difference", and
            "seconds" of "training".
    """
    rows = list(rows)
    points = [Point(0, 0.0, dict(before), {})] if before is not None else []
    points += [
        Point(row["iteration"] + 1, row["seconds/training"], row["evaluation"], row.get("difference", {}))
        for row in rows
        if "evaluation" in row
    ]
    if summary is not None:
        seconds = summary.get("seconds", {}).get("training", rows[-1]["seconds/training"] if rows else 0.0)
        points.append(Point(len(rows), seconds, summary["after"], summary.get("difference", {})))
    return points
