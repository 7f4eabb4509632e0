"""A comparison as one HTML file that opens from disk without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advantageflow.record import SIGNS
from advantageflow.report.colors import palette
from advantageflow.report.page import Chart, axes, interval, listed, p_text, plotly_js, tidy, time_unit, write_page
from advantageflow.statistics import bootstrap_band, interpolate_curves


def write_comparison(result: Mapping[str, Any], output: Path) -> Path:
    """What `compare.analyse` found, as one HTML file.

    Args:
        result: see `compare.analyse`.

    Raises:
        ConfigError: `output` is a folder, or plotly or jinja2 is missing.
    """
    library = plotly_js()
    arms: dict[str, Any] = result["arms"]
    longest = max(times[-1] for arm in arms.values() for times, _ in arm["curves"]["seconds"])
    unit, per_unit = time_unit(longest)
    page = {
        "title": f"Comparison of {listed(list(arms))}",
        "axes": axes(unit),
        "sentences": comparison_sentences(result),
        "chart": comparison_chart(result, per_unit),
        "arms": arms,
        "palette": palette(list(arms)),
        "score": result["score"],
        "baseline": result["baseline"],
        "p_values": result["p_values"],
        "scores": list(
            dict.fromkeys(name for arm in arms.values() for name in arm["scores"] if name != result["score"])
        ),
        "signs": {"all": "all", **SIGNS},
        "task_score": next(iter(next(iter(arms.values()))["scores"])),  # tasks are of a recipe's first score
        "tasks": list(dict.fromkeys(task for arm in arms.values() for task in arm["tasks"])),
    }
    return write_page("comparison.html.jinja", page, library, output)


def comparison_sentences(result: Mapping[str, Any]) -> list[str]:
    """What was compared and what came of it, in plain English."""
    arms, baseline, label = result["arms"], result["baseline"], result["score"]
    counts = sorted({len(arm["seeds"]) for arm in arms.values()})
    seeds = (
        f"{counts[0]} seed{'' if counts == [1] else 's'}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    )
    best = max(arms, key=lambda arm: float(arms[arm]["after"]["value"]))
    after = arms[best]["after"]
    base = max(float(arm["before"]) for arm in arms.values())
    nobody = float(after["low"]) <= base
    sentences = [f"No method is better than the base model, whose held-out {label} is {base:.3f}."] if nobody else []
    sentences += [
        f"{len(arms)} methods were trained with {seeds} each.",
        f"{best} ended highest, with a held-out {label} of {interval(after)} (mean and 95 % interval).",
    ]
    if best != baseline:
        p_value = result["p_values"].get(best, {}).get(label)
        tested = "untested, for want of seeds" if p_value is None else f"p\u00a0=\u00a0{p_text(p_value)}"
        sentences.append(f"The baseline {baseline} ended at {interval(arms[baseline]['after'])} ({tested}).")
        ratio = arms[best]["time_ratio"]["seconds"]
        if ratio["value"] is not None and not nobody:
            sentences.append(f"{best} reached {baseline}'s best in {interval(ratio, 2)} of the time {baseline} took.")
    else:
        sentences.append("It is the baseline: no other method ended above it.")
    collapsed = {arm: sum(found["collapsed"]) for arm, found in arms.items() if any(found["collapsed"])}
    if collapsed:
        told = listed([f"{count} of {len(arms[arm]['collapsed'])} runs of {arm}" for arm, count in collapsed.items()])
        sentences.append(f"Collapsed: {told}.")
    return sentences


def comparison_chart(result: Mapping[str, Any], per_unit: float) -> Chart:
    """Mean held-out scores over seeds with their pointwise 95 % intervals."""
    traces = []
    for index, (arm, found) in enumerate(result["arms"].items()):
        color = f"c{index}"
        x: dict[str, list[float | None]] = {}
        y: dict[str, list[float | None]] = {}
        edge: dict[str, list[float | None]] = {}
        for axis, curves in found["curves"].items():
            grid = np.linspace(0, min(times[-1] for times, _ in curves), 100)
            scores = interpolate_curves(curves, grid)
            low, high = bootstrap_band(scores)
            x[axis] = [tidy(place / (per_unit if axis == "seconds" else 1)) for place in grid.tolist()]
            y[axis] = [tidy(value) for value in scores.mean(0).tolist()]
            edge[axis] = [tidy(value) for value in [*high.tolist(), *low.tolist()[::-1]]]
        if len(found["seeds"]) > 1:
            around = {axis: [*places, *places[::-1]] for axis, places in x.items()}
            traces.append({"name": arm, "color": color, "x": around, "y": edge, "band": True})
        traces.append({"name": arm, "color": color, "x": x, "y": y})
    ends = [f"{arm} ends at {interval(found['after'])}" for arm, found in result["arms"].items()]
    return {
        "title": f"Held-out {result['score']}",
        "about": "Mean over seeds, with the pointwise 95 % bootstrap interval as a band.",
        "label": f"Line chart of mean held-out {result['score']}: {'; '.join(ends)}",
        "traces": traces,
    }
