"""A run or several as one HTML file that opens from disk without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advantageflow.config import Config
from advantageflow.reports.colors import palette
from advantageflow.reports.page import axes, duration, listed, number, plotly_js, time_unit, write_page
from advantageflow.reports.page_pictures import extremes
from advantageflow.reports.reported_run import ReportedRun, load_run, names
from advantageflow.reports.run_charts import learning_charts, score_charts
from advantageflow.reports.run_tables import changes_table, costs, environments, settings_table, task_table
from advantageflow.run.collapse import lost_variety
from advantageflow.run.pace import counted

TEMPLATE = "report.html.jinja"


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """One or several runs, finished or not, as one HTML file.

    Raises:
        ConfigError: a folder holds no run, `output` is a folder, or plotly or jinja2 is missing.
    """
    library = plotly_js()
    return write_page(TEMPLATE, contents(folders), library, output)


def contents(folders: Sequence[Path]) -> dict[str, Any]:
    """What the template is filled with.

    Raises:
        ConfigError: a folder holds no run, not one finished iteration, or a damaged file.
    """
    runs = [load_run(folder, name, len(folders)) for folder, name in zip(folders, names(folders), strict=True)]
    unit, per_unit = time_unit(max(run.rows[-1]["seconds/training"] for run in runs))
    return {
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
        "changes": changes_table(runs),
        "environments": environments(runs),
        "costs": costs(runs),
        "palette": palette([run.method for run in runs]),
    }


def sentence(run: ReportedRun) -> str:
    """What was done and what came of it, in plain English."""
    config, objective = run.config, run.config.objective
    setting, symbol = objective.short or ("", "")
    method = objective.title + (f" ({symbol} = {getattr(objective, setting)})" if setting else "")
    count, seconds = len(run.rows), run.rows[-1]["seconds/training"]
    took = f"{counted(count)} and {duration(seconds)}"
    text = f"{method} trained the model {config.model.path} on {_learned(config)} for {took}. "
    if len(run.points) < 2:
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


def _learned(config: Config) -> str:
    """What was learned from."""
    rewards = config.reward_weights
    if not rewards:
        return f"the pairs of {config.rollout.source}"
    if len(rewards) == 1:
        return f"the reward {next(iter(rewards))}"
    return f"the rewards {listed([f'{name} (weight {weight:g})' for name, weight in rewards.items()])}"


def _moved(first: float, last: float) -> str:
    before, after = number(first), number(last)
    if before == after:
        return f"stayed at {after}"
    return f"{'rose' if last > first else 'fell'} from {before} to {after}"


def headline(run: ReportedRun) -> dict[str, Any]:
    """The first held-out score: {"label", "before", "after", "difference"}; None where there is no evaluation since.

    The difference to the base model is "value", "low" and "high", and None also in runs that did not record it.
    """
    label, points = run.labels[0], run.points
    difference = points[-1].difference.get(label) if points else None
    return {
        "label": label,
        "before": points[0].scores[label] if points else None,
        "after": points[-1].scores[label] if len(points) > 1 else None,
        "difference": difference if difference and difference["low"] is not None else None,
    }
