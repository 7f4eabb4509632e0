"""Tables of a run's page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from advantageflow.config import Config, default_config, flatten
from advantageflow.reports.page import gibibytes
from advantageflow.reports.reported_run import ReportedRun


def task_table(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Rows of scores before and after: the first label, its tasks, the other labels.

    Each row is {"name", "is_task", "cells"}, with a cell {"before", "after", "width_before", "width_after"} per run.
    Widths are percent of a track that ends at 1, or at the label's largest value where that is not a share.
    """
    labels = dict.fromkeys(label for run in runs for label in run.labels)
    tasks = dict.fromkeys(task for run in runs for point in run.points[:1] for task in point.scores["tasks"])
    first, *others = [_score_row(runs, label, ()) for label in labels]
    by_task = [_score_row(runs, task, ("tasks",)) for task in tasks] if len(tasks) > 1 else []
    for rows in ([first, *by_task], *([row] for row in others)):
        _add_widths(rows)
    return [first, *by_task, *others]


def _score_row(runs: Sequence[ReportedRun], name: str, inside: Sequence[str]) -> dict[str, Any]:
    def pick(scores: Mapping[str, Any]) -> float | None:
        for key in inside:
            scores = scores[key]
        return scores.get(name)

    cells = [
        {
            "before": pick(run.points[0].scores) if run.points else None,
            "after": pick(run.points[-1].scores) if len(run.points) > 1 else None,
        }
        for run in runs
    ]
    return {"name": name, "is_task": bool(inside), "cells": cells}


def _add_widths(rows: Sequence[dict[str, Any]]) -> None:
    cells = [cell for row in rows for cell in row["cells"]]
    most = max([1e-12, *(cell[side] or 0 for cell in cells for side in ("before", "after"))])
    most = 1.0 if 0.05 < most <= 1 else most  # scores between 0 and 1 fill the bar at 1
    for cell in cells:
        for side in ("before", "after"):
            cell[f"width_{side}"] = round(100 * max(cell[side] or 0, 0) / most, 1)


def settings_table(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Every setting: {"key", "cells", "default"} with one cell {"value", "changed"} per run.

    The defaults are those that a recipe with nothing but the run's method would have; all where methods differ.
    """
    flats = [flatten(run.config.model_dump(mode="json")) for run in runs]
    defaults = [default_settings(run.config) for run in runs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [
        {
            "key": key,
            "cells": [
                {"value": _shown(flat.get(key, ...)), "changed": flat.get(key, ...) != default.get(key, ...)}
                for flat, default in zip(flats, defaults, strict=True)
            ],
            "default": " or ".join(dict.fromkeys(_shown(default[key]) for default in defaults if key in default)),
        }
        for key in keys
    ]


def default_settings(config: Config) -> dict[str, Any]:
    """Flat defaults of the configuration's method; the default method itself is `Config`'s."""
    default = flatten(default_config(config.objective.name).model_dump(mode="json"))
    return default | {"objective.name": Config().objective.name}


def _shown(value: Any) -> str:
    if value is ...:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def changes_table(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """What was changed by continuing a run: {"run", "iteration", "key", "then", "now"}, in order."""
    return [
        {
            "run": run.name,
            "iteration": entry["iteration"],
            "key": key,
            "then": "" if part == "inputs" else _shown(then),
            "now": "another by content" if part == "inputs" else _shown(now),
        }
        for run in runs
        for entry in run.changes
        for part, found in entry.items()
        if part != "iteration"
        for key, (then, now) in found.items()
    ]


def environments(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """What the runs were started with: key -> one value per run."""
    return _merged([{"commit": None} | (run.environment or {}) for run in runs])


def costs(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """Time by stage, and memory: key -> one value per run."""
    return _merged([_cost(run.summary) for run in runs])


def _merged(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Key -> its value in each record."""
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [_told(record.get(key)) for record in records] for key in keys}


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not recorded" if value is None else str(value)


def _cost(summary: Mapping[str, Any] | None) -> dict[str, str]:
    if summary is None:
        return {}
    found = {stage: f"{seconds:.1f} s" for stage, seconds in summary["seconds"].items() if stage != "training"}
    memory = summary.get("peak_memory")
    return found | ({"peak memory": gibibytes(memory)} if memory else {})
