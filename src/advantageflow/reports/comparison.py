"""Comparisons as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advantageflow.reports.colors import palette
from advantageflow.reports.page import interval, p_text
from advantageflow.run.pace import counted
from advantageflow.statistics import bootstrap_band, interpolate_curves
from advantageflow.studies.record import AXES, SIGNS, Record
from advantageflow.tables import markdown_table

LEGEND = (
    "before, after: mean held-out score over seeds, with its 95 % interval. p: of a paired t-test over seeds, "
    "corrected for the number of arms (Holm). collapsed: runs that diverged, whose images became alike or whose score "
    "fell. drift: ‖v - v_ref‖², how far the model has moved. diversity: variance of latents within a prompt, in the "
    "first and last iteration. s / iteration: of drawing, scoring and learning.\n"
)


def base_score(result: Mapping[str, Any]) -> float:
    """The base model's held-out score, that of the best one where arms began with several."""
    return max(float(arm["before"]) for arm in result["arms"].values())


def best_arm(result: Mapping[str, Any]) -> str:
    """The arm that ended highest."""
    arms: Mapping[str, Any] = result["arms"]
    return max(arms, key=lambda arm: float(arms[arm]["after"]["value"]))


def nobody_better(result: Mapping[str, Any]) -> bool:
    """Whether no arm is better than the base model by more than its interval over seeds."""
    return float(result["arms"][best_arm(result)]["after"]["low"]) <= base_score(result)


def has_ratios(result: Mapping[str, Any]) -> bool:
    """Whether times to the baseline's best mean something: some arm, and the baseline, got above the base model.

    Curves that have ends alone tell of no time between.
    """
    if any(len(times) < 3 for arm in result["arms"].values() for times, _ in arm["curves"]["seconds"]):
        return False
    curves = result["arms"][result["baseline"]]["curves"]["seconds"]
    scores = interpolate_curves(curves, np.unique(np.concatenate([times for times, _ in curves]))).mean(0)
    return not nobody_better(result) and float(scores.max()) > scores[0]


def left_out(result: Mapping[str, Any]) -> str:
    """A sentence about the arms that nothing can be said of; "" where there are none. Early versions kept none."""
    arms = result.get("left_out", [])
    return f"Left out, since no run of theirs came to its end: {', '.join(arms)}." if arms else ""


def table(result: Mapping[str, Any]) -> str:
    """A comparison in Markdown: what each arm reached, at what cost, and by task."""
    baseline, score, arms = result["baseline"], result["score"], result["arms"]
    ratios = ("images", "time") if has_ratios(result) else ()
    reached = {
        arm: [
            str(len(found["seeds"])),
            f"{found['before']:.3f}",
            interval(found["after"]),
            _p_value(result, arm, score),
            *(interval(found["time_ratio"]["seconds" if name == "time" else name], 2) for name in ratios),
        ]
        for arm, found in arms.items()
    }
    cost = {
        arm: [
            f"{sum(found['collapsed'])} of {len(found['collapsed'])}",
            _known(found["drift"]["to_reference"], 4),
            " → ".join(_known(found["drift"][f"diversity_{moment}"], 2) for moment in ("first", "last")),
            _known(found["cost"]["iteration"], 1),
            "" if found["cost"]["peak_memory"] is None else f"{found['cost']['peak_memory'] / 2**30:.2f}",
        ]
        for arm, found in arms.items()
    }
    text = f"No arm is better than the base model, {base_score(result):.3f}.\n\n" if nobody_better(result) else ""
    others = (
        f"p, and images and time to the best of {baseline} as shares of its own" if ratios else f"p against {baseline}"
    )
    text += f"{left_out(result)}\n\n" if left_out(result) else ""
    text += f"Held-out {score}; {others}:\n\n"
    text += named_rows(["seeds", "before", "after", "p", *ratios], reached)
    text += "\n" + named_rows(["collapsed", "drift", "diversity", "s / iteration", "peak GiB"], cost)
    tasks = list(next(iter(arms.values()))["tasks"])
    if len(tasks) > 1:
        by_task = {
            arm: [f"{found['tasks'][task]['value']:.3f} ({_p_value(result, arm, task) or '-'})" for task in tasks]
            for arm, found in arms.items()
        }
        text += f"\nBy task (first score of the recipe), after; in brackets p against {baseline}:\n\n"
        text += named_rows(tasks, by_task)
    return text


def named_rows(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table of rows by their names."""
    return markdown_table(["", *columns], ([name, *cells] for name, cells in rows.items()))


def _p_value(result: Mapping[str, Any], arm: str, score: str) -> str:
    value = result["p_values"].get(arm, {}).get(score)
    return "—" if value is None and arm != result["baseline"] else "" if value is None else p_text(value)


def _known(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def draw_figure(results: Mapping[str, Mapping[str, Any]], axis: str, file: Path, called: str = "") -> None:
    """Mean curves with 95 % bands over seeds, one panel per title; `file` without its ending, as PNG.

    Args:
        axis: a key of the results' curves.
        called: the axis in the picture; by default as it is in `AXES`.
    """
    columns = len(results) if len(results) < 4 else 2
    rows = -(-len(results) // columns)
    longest = max(len(result["arms"]) for result in results.values())  # a key of more than seven arms needs more room
    size = (3.6 * columns + 0.6, (4.6 + 0.25 * max(longest - 7, 0)) * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, result) in zip(panels, results.items(), strict=True):
        for (arm, found), (color, _) in zip(result["arms"].items(), palette(list(result["arms"])), strict=True):
            curves = found["curves"][axis]
            grid = np.linspace(0, min(places[-1] for places, _ in curves), 100)
            _band(
                panel,
                grid,
                interpolate_curves(curves, grid),
                color,
                f"{arm} ({counted(len(curves), 'seed')})",
            )
        panel.set_title(title)
        panel.set_xlabel(called or AXES[axis])
        panel.set_ylabel(f"held-out {result['score']}")
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.45, -0.17))
    _save(figure, file)


def draw_rates(result: Mapping[str, Any], rates: Mapping[str, Sequence[float]], file: Path) -> None:
    """Last held-out score against the learning rates of each method, a panel each; arms are labelled "method, rate"."""
    columns = min(4, len(rates))
    rows = -(-len(rates) // columns)
    figure = Figure(figsize=(2.3 * columns, 0.5 + 1.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    ticks = sorted({rate for tried in rates.values() for rate in tried})
    before = next(iter(result["arms"].values()))["before"]
    for panel, (method, tried) in zip(panels, rates.items(), strict=False):
        points = [(rate, result["arms"].get(f"{method}, {rate:g}")) for rate in tried]
        known = [(rate, found["after"]["value"]) for rate, found in points if found is not None]
        panel.plot([rate for rate, _ in known], [score for _, score in known], "o-", color="#0b66c3", markersize=4)
        panel.axhline(before, color="grey", linestyle=":")
        panel.set_title(method, fontsize="small")
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{rate:g}"[1:] for rate in ticks], fontsize="x-small", rotation=60)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    for panel in panels[max(len(rates) - columns, 0) : len(rates)]:  # the lowest of its column
        panel.tick_params(labelbottom=True)
    for panel in panels[len(rates) :]:
        panel.set_axis_off()
    figure.supxlabel("learning rate; dotted: the base model", fontsize="medium")
    figure.supylabel(f"held-out {result['score']}", fontsize="medium")
    _save(figure, file)


def draw_ends(results: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Last held-out scores with intervals over seeds, the highest first, a panel per title; dotted: the baseline's."""
    heights = [1 + 0.26 * len(result["arms"]) for result in results.values()]
    longest = max(len(arm) for result in results.values() for arm in result["arms"])
    figure = Figure(figsize=(4.5 + 0.08 * longest, sum(heights)), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False, height_ratios=heights).flatten()
    for panel, (title, result) in zip(panels, results.items(), strict=True):
        ends = sorted(((arm, found["after"]) for arm, found in result["arms"].items()), key=lambda end: end[1]["value"])
        for row, (arm, end) in enumerate(ends):
            color = "#c9480b" if arm == result["baseline"] else "#0b66c3"
            panel.plot([end["low"], end["high"]], [row, row], color=color, alpha=0.5)
            panel.plot([end["value"]], [row], "o", color=color)
        panel.axvline(result["arms"][result["baseline"]]["after"]["value"], color="#c9480b", linestyle=":")
        panel.axvline(base_score(result), color="grey", linestyle=":")
        panel.set_yticks(range(len(ends)), [arm for arm, _ in ends])
        panel.set_title(title)
        panel.set_xlabel(f"held-out {result['score']} after the run; grey: the base model")
        panel.grid(alpha=0.3, axis="x")
    _save(figure, file)


def draw_stability(records: Sequence[Record], file: Path) -> None:
    """Reward and diversity; then the gradient's norm, the drift and each term of the loss, a row each, by sign of A.

    Means over each arm's seeds with 95 % bands. An arm is absent where it recorded no such thing.
    """
    arms = list(dict.fromkeys(record.label for record in records))
    names = dict.fromkeys(name for record in records for name in record.metrics)
    rows = {"grad_norm": "gradient norm", "distance/to_reference": "distance to the base model"}
    for name in names:
        if name.startswith("loss") and not name.endswith("_advantage"):
            rows[name] = f"{name.removeprefix('loss/')} term" if name != "loss" else "loss"
    titles = {"reward/mean": "training reward", "diversity": "diversity of a prompt's images", "": ""}
    for name, title in rows.items():
        titles |= {name: title, **{f"{name}/{sign}_advantage": f"{title}, {shown}" for sign, shown in SIGNS.items()}}
    figure = Figure(figsize=(9.6, 2.5 * (1 + len(rows))), layout="constrained")
    panels = figure.subplots(1 + len(rows), 3).flatten()
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        for arm, (color, _) in zip(arms, palette(arms), strict=True):
            curves = [record.metrics.get(name, []) for record in records if record.label == arm]
            curves = [curve for curve in curves if curve]  # one that diverged at once hides no other
            length = min(map(len, curves), default=0)
            if length:
                values = np.array([curve[:length] for curve in curves], dtype=float)  # None becomes NaN
                _band(panel, np.arange(1, length + 1), values, color, arm)
        panel.set_title(title.replace(", A", ",\nA"), fontsize="medium")
        panel.set_xlabel("iteration")
        if name.startswith(("distance/", "grad_norm")):
            panel.set_yscale("log")
    panels[2].axis("off")
    panels[2].legend(*panels[0].get_legend_handles_labels(), loc="center")
    _save(figure, file)


def _band(panel: Axes, places: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """The mean of `values` [seeds, places] with its 95 % interval."""
    panel.plot(places, values.mean(0), color=color, label=label)
    if len(values) > 1:
        panel.fill_between(places, *bootstrap_band(values), color=color, alpha=0.2, linewidth=0)
    panel.grid(alpha=0.3)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file.with_name(file.name + ".png"), dpi=150)
