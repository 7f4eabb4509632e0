"""A run or several as one HTML file that opens from disk without a network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advantageflow.collapse import lost_variety
from advantageflow.config import Config, ConfigError, check_config, flatten
from advantageflow.keeping import place, saved
from advantageflow.record import SIGNS
from advantageflow.report.curves import each_reward
from advantageflow.report.page import (
    Chart,
    Place,
    axes,
    chart_of,
    duration,
    gibibytes,
    listed,
    number,
    plotly_js,
    time_unit,
    trace_of,
    write_page,
)
from advantageflow.report.page_pictures import FULL_BYTES, PICTURES, Picture, extremes, read_pictures
from advantageflow.run_directory import RunDirectory, check_scores
from advantageflow.stored import DamagedError, read_object

METHODS = {"advantageflow": "AdvantageFlow", "nft": "DiffusionNFT", "flow-grpo": "Flow-GRPO"}


@dataclass(frozen=True)
class Point:
    """Held-out scores after so many iterations and seconds of training."""

    iteration: int
    seconds: float
    scores: dict[str, Any]  # label -> mean score, and "tasks"


@dataclass(frozen=True)
class ReportedRun:
    """What a run's folder tells; `points` starts with the base model."""

    name: str
    config: Config
    rows: list[dict[str, Any]]
    points: list[Point]
    summary: dict[str, Any] | None  # None: not finished
    environment: dict[str, Any] | None
    pictures: dict[int, list[Picture]]  # iteration -> samples

    @property
    def labels(self) -> list[str]:
        """Of the held-out scores; the first goes by task."""
        return [label for label in self.points[0].scores if label != "tasks"]

    def place(self, iteration: int, seconds: float) -> Place:
        """Where a moment is on each axis."""
        rollout = self.config.rollout
        return {
            "seconds": seconds,
            "images": iteration * rollout.prompts_per_iteration * rollout.images_per_prompt,
            "steps": iteration * self.config.learn.optimizer_steps,
        }


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """One or several runs, finished or not, as one HTML file.

    Raises:
        ConfigError: a folder holds no run, `output` is a folder, or plotly or jinja2 is missing.
    """
    library = plotly_js()
    runs = [load_run(folder, name, len(folders)) for folder, name in zip(folders, _names(folders), strict=True)]
    unit, per_unit = time_unit(max(run.rows[-1]["seconds/training"] for run in runs))
    page = {
        "title": f"Report of {listed([run.name for run in runs])}",
        "axes": axes(unit),
        "runs": runs,
        "sentences": [sentence(run) for run in runs],
        "headlines": [headline(run) for run in runs],
        "score_charts": score_charts(runs, per_unit),
        "learning_charts": learning_charts(runs, per_unit),
        "tasks": task_table(runs),
        "extremes": [extremes(run.pictures) for run in runs],
        "settings": settings_table(runs),
        "environments": _merged([{"commit": None} | (run.environment or {}) for run in runs]),
        "costs": _merged([_cost(run.summary) for run in runs]),
    }
    return write_page("report.html.jinja", page, library, output)


def load_run(folder: Path, name: str, runs: int = 1) -> ReportedRun:
    """A run's folder.

    Args:
        name: by which the report calls it.
        runs: how many runs share the page; the more, the fewer pictures each has.

    Raises:
        ConfigError: it holds no run, or not one finished iteration.
    """
    file, directory = folder / "config.yaml", RunDirectory(folder)
    if not file.is_file():
        raise ConfigError(f"{folder} holds no run: there is no {file}; give folders that `advantageflow train` wrote")
    rows = directory.metrics()
    if not rows:
        raise ConfigError(
            f"{folder} has no finished iteration to report; continue it with: advantageflow train --resume {folder}"
        )
    summary = directory.summary()
    if summary:
        _check_cost(summary, folder / "summary.json")
    before = summary["before"] if summary else _before(directory)
    points = [Point(0, 0.0, before)]
    points += [
        Point(row["iteration"] + 1, row["seconds/training"], row["evaluation"]) for row in rows if "evaluation" in row
    ]
    if summary:
        points.append(Point(summary["iterations"], summary["seconds"]["training"], summary["after"]))
    return ReportedRun(
        name=name,
        config=directory.config(),
        rows=rows,
        points=points,
        summary=summary,
        environment=directory.environment(),
        pictures=read_pictures(directory.samples, PICTURES // runs, FULL_BYTES // runs),
    )


def _check_cost(summary: dict[str, Any], file: Path) -> None:
    seconds = summary.get("seconds")
    named = {"iterations": summary.get("iterations"), **(seconds if isinstance(seconds, dict) else {"seconds": None})}
    for name, value in named.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or "training" not in named:
            raise DamagedError(f"{file} is damaged: {name!r} is {type(value).__name__}, or there is no 'training'")


def _before(directory: RunDirectory) -> dict[str, Any]:
    """The base model's scores in a run that is not finished."""
    iterations = saved(directory.checkpoints)
    if not iterations:
        raise ConfigError(f"{directory.path} has neither a summary nor a checkpoint; train it again")
    file = place(directory.checkpoints, iterations[-1]) / "state.json"
    before: dict[str, Any] = read_object(file, {"before": dict})["before"]
    check_scores(before, f"{file}, before,")
    return before


def _names(folders: Sequence[Path]) -> list[str]:
    """Folders' names; their paths where names repeat."""
    count = Counter(folder.resolve().name for folder in folders)
    return [name if count[name := folder.resolve().name] == 1 else str(folder) for folder in folders]


def sentence(run: ReportedRun) -> str:
    """What was done and what came of it, in plain English."""
    config, rewards = run.config, run.config.reward_weights
    gamma = getattr(config.objective, "gamma", None)
    method = METHODS[config.objective.name] + (f" (γ = {gamma})" if gamma is not None else "")
    named = listed([name + (f" (weight {weight:g})" if len(rewards) > 1 else "") for name, weight in rewards.items()])
    count, seconds = len(run.rows), run.rows[-1]["seconds/training"]
    text = (
        f"{method} trained the model {config.model.path} on the reward{'s' if len(rewards) > 1 else ''} {named} "
        f"for {_counted(count)} and {duration(seconds)}. "
    )
    if len(run.points) == 1:
        return text + "It has not finished, and was not evaluated on held-out prompts yet."
    first, last = run.points[0].scores, run.points[-1].scores
    changes = [f"{label} {_moved(first[label], last[label])}" for label in run.labels]
    state = "" if run.summary else f"It has not finished; at iteration {run.points[-1].iteration}, "
    subject = "held-out" if state else "Held-out"
    text = f"{text}{state}{subject} {'; '.join(changes)}."
    diversity = [row["diversity"] for row in run.rows]
    if lost_variety(diversity):
        text += f" The images of a prompt became alike: diversity {_moved(diversity[0], diversity[-1])}."
    return text


def _counted(iterations: int) -> str:
    return f"{iterations} iteration{'' if iterations == 1 else 's'}"


def _moved(first: float, last: float) -> str:
    before, after = number(first), number(last)
    if before == after:
        return f"stayed at {after}"
    return f"{'rose' if last > first else 'fell'} from {before} to {after}"


def headline(run: ReportedRun) -> dict[str, Any]:
    """The first held-out score before and after; None where there is no evaluation since."""
    label = run.labels[0]
    after = run.points[-1].scores[label] if len(run.points) > 1 else None
    return {"label": label, "before": run.points[0].scores[label], "after": after}


def score_charts(runs: Sequence[ReportedRun], per_unit: float) -> list[Chart]:
    """Held-out scores, one chart per label, and the training rewards."""
    charts = []
    for label in dict.fromkeys(label for run in runs for label in run.labels):
        traces = [
            trace_of(
                run.name,
                color,
                (run.place(point.iteration, point.seconds) for point in run.points),
                (point.scores.get(label) for point in run.points),
                per_unit,
                markers=True,
            )
            for color, run in enumerate(runs)
        ]
        charts.append(chart_of(f"Held-out {label}", "Mean over held-out prompts, same noise each time.", traces))
    about = "Mean over an iteration's images, on the training prompts."
    charts.append(_row_chart(runs, "Training reward", about, "reward/mean", per_unit))
    single = {key: name for run in runs for key, name in each_reward(run.rows[0]).items()}
    charts += [_row_chart(runs, f"Training reward: {name}", about, key, per_unit) for key, name in single.items()]
    return charts


def learning_charts(runs: Sequence[ReportedRun], per_unit: float) -> list[Chart]:
    """Losses by the sign of the advantage; gradient norm, distances and diversity, by sign where that was recorded.

    What no run recorded is left out.
    """
    suffix = "/positive_advantage"
    by_sign = dict.fromkeys(key.removesuffix(suffix) for run in runs for key in run.rows[0] if key.endswith(suffix))
    charts = []
    for name in (name for name in by_sign if name.startswith("loss")):
        term = name.removeprefix("loss").removeprefix("/")
        charts.append(_sign_chart(runs, f"Loss, {term} term" if term else "Loss", name, per_unit))
    for key, title, about in (
        ("grad_norm", "Gradient norm", "Before clipping, mean over the iteration's steps."),
        ("distance/to_rollout", "Distance to the rollout policy", "Mean of ‖v − v_old‖²."),
        ("distance/to_reference", "Distance to the reference", "Mean of ‖v − v_ref‖²: how far the model has moved."),
        ("diversity", "Diversity", "Variance of the latents within a prompt's images; a fall to 0 is a collapse."),
    ):
        charts.append(_row_chart(runs, title, about, key, per_unit))
        if key in by_sign:
            charts.append(_sign_chart(runs, title, key, per_unit))
    return [chart for chart in charts if chart["traces"]]


def _row_chart(runs: Sequence[ReportedRun], title: str, about: str, key: str, per_unit: float) -> Chart:
    traces = [
        trace_of(run.name, color, _row_places(run), (row.get(key) for row in run.rows), per_unit)
        for color, run in enumerate(runs)
    ]
    return chart_of(title, about, traces)


def _sign_chart(runs: Sequence[ReportedRun], title: str, name: str, per_unit: float) -> Chart:
    """A quantity over samples with positive and with negative advantage."""
    traces = [
        trace_of(
            shown if len(runs) == 1 else f"{run.name}, {shown}",
            color if len(runs) > 1 else side,
            _row_places(run),
            (row.get(f"{name}/{sign}_advantage") for row in run.rows),
            per_unit,
            dash=sign == "negative",
        )
        for color, run in enumerate(runs)
        for side, (sign, shown) in enumerate(SIGNS.items())
    ]
    return chart_of(
        f"{title} by sign of the advantage",
        "Solid: images better than their group (A > 0). Dashed: worse (A < 0).",
        traces,
    )


def _row_places(run: ReportedRun) -> Iterator[Place]:
    return (run.place(row["iteration"] + 1, row["seconds/training"]) for row in run.rows)


def task_table(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Rows of scores before and after: the first label, its tasks, the other labels.

    Each row is {"name", "is_task", "cells"}, with a cell {"before", "after", "width_before", "width_after"} per run.
    Widths are percent of 1, or of the largest value of the row's label where that is not a share.
    """
    labels = dict.fromkeys(label for run in runs for label in run.labels)
    tasks = dict.fromkeys(task for run in runs for task in run.points[0].scores["tasks"])
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
            "before": pick(run.points[0].scores),
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
    default = flatten(check_config({"objective": {"name": config.objective.name}}).model_dump(mode="json"))
    return default | {"objective.name": Config().objective.name}


def _shown(value: Any) -> str:
    if value is ...:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _merged(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Key -> its value in each record."""
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [_told(record.get(key)) for record in records] for key in keys}


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not recorded" if value is None else str(value)


def _cost(summary: Mapping[str, Any] | None) -> dict[str, str]:
    """Time by stage, and memory."""
    if summary is None:
        return {}
    found = {stage: f"{seconds:.1f} s" for stage, seconds in summary["seconds"].items() if stage != "training"}
    memory = summary.get("peak_memory")
    return found | ({"peak memory": gibibytes(memory)} if memory else {})
