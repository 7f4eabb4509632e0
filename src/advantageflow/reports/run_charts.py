"""Curves of a run's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from advantageflow.reports.page import Chart, Place, chart_of, trace_of
from advantageflow.reports.reported_run import ReportedRun
from advantageflow.run.curves import each_reward
from advantageflow.studies.record import SIGNS


def score_charts(runs: Sequence[ReportedRun], per_unit: float) -> list[Chart]:
    """Held-out scores, one chart per label, and the training rewards; no scores before the first evaluation."""
    charts = []
    for label in dict.fromkeys(label for run in runs if run.points for label in run.labels):
        traces = [
            trace_of(
                run.name,
                f"c{index}",
                (run.place(point.iteration, point.seconds) for point in run.points),
                (point.scores.get(label) for point in run.points),
                per_unit,
                markers=True,
            )
            for index, run in enumerate(runs)
            if run.points
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
        trace_of(run.name, f"c{index}", _row_places(run), (row.get(key) for row in run.rows), per_unit)
        for index, run in enumerate(runs)
    ]
    return chart_of(title, about, traces)


def _sign_chart(runs: Sequence[ReportedRun], title: str, name: str, per_unit: float) -> Chart:
    """A quantity over samples with positive and with negative advantage."""
    traces = [
        trace_of(
            shown if len(runs) == 1 else f"{run.name}, {shown}",
            "base" if len(runs) == 1 and sign == "negative" else f"c{index}",
            _row_places(run),
            (row.get(f"{name}/{sign}_advantage") for row in run.rows),
            per_unit,
            dash=sign == "negative",
        )
        for index, run in enumerate(runs)
        for sign, shown in SIGNS.items()
    ]
    return chart_of(
        f"{title} by sign of the advantage",
        "Solid: images better than their group (A > 0). Dashed: worse (A < 0).",
        traces,
    )


def _row_places(run: ReportedRun) -> Iterator[Place]:
    return (run.place(row["iteration"] + 1, row["seconds/training"]) for row in run.rows)
