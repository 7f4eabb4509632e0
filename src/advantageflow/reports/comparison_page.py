"""A comparison as one HTML file that opens from disk without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advantageflow.reports.colors import palette
from advantageflow.reports.comparison import base_score, best_arm, has_ratios, left_out, nobody_better
from advantageflow.reports.page import (
    Chart,
    axes,
    interval,
    listed,
    p_text,
    plotly_js,
    tidy,
    time_unit,
    write_page,
)
from advantageflow.reports.page_pictures import FULL_BYTES, PICTURES, Picture, full_bytes, picture_of
from advantageflow.run.pace import counted
from advantageflow.run.samples import read_prompts, read_samples, sampled_iterations
from advantageflow.statistics import bootstrap_band, interpolate_curves
from advantageflow.studies.record import SIGNS

SHOWN = 24  # prompts whose pictures stand side by side


def write_comparison(result: Mapping[str, Any], output: Path, runs: Mapping[str, Path] | None = None) -> Path:
    """What `compare.analyse` found, as one HTML file.

    Args:
        result: see `compare.analyse`.
        runs: arm -> folder of the run whose pictures are shown.

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
        "pictures": side_by_side(runs or {}),
        "chart": comparison_chart(result, per_unit),
        "ratios": has_ratios(result),
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
    best = best_arm(result)
    after = arms[best]["after"]
    sentences = []
    if nobody_better(result):
        sentences = [f"No method is better than the base model, whose held-out {label} is {base_score(result):.3f}."]
    sentences += [
        f"{len(arms)} method{'s were' if len(arms) > 1 else ' was'} trained with {seeds} each.",
        f"{best} ended highest, with a held-out {label} of {interval(after)}"
        f"{' (mean and 95 % interval)' if after['low'] != after['high'] else ''}.",
    ]
    if best != baseline:
        p_value = result["p_values"].get(best, {}).get(label)
        tested = "untested, for want of seeds or spread" if p_value is None else f"p\u00a0=\u00a0{p_text(p_value)}"
        sentences.append(f"The baseline {baseline} ended at {interval(arms[baseline]['after'])} ({tested}).")
        ratio = arms[best]["time_ratio"]["seconds"]
        if ratio and ratio["value"] is not None and has_ratios(result):
            sentences.append(f"{best} reached {baseline}'s best in {interval(ratio, 2)} of the time {baseline} took.")
    else:
        sentences.append("It is the baseline: no other method ended above it.")
    collapsed = {arm: sum(found["collapsed"]) for arm, found in arms.items() if any(found["collapsed"])}
    if left_out(result):
        sentences.append(left_out(result))
    if collapsed:
        told = listed([f"{count} of {len(arms[arm]['collapsed'])} runs of {arm}" for arm, count in collapsed.items()])
        sentences.append(f"Collapsed: {told}.")
    return sentences


def side_by_side(runs: Mapping[str, Path]) -> dict[str, Any] | None:
    """Pictures of the same prompts and noise by the base model and, as of its last ones, by every run.

    {"columns": names, "rows": [{"prompt", "cells"}], "about"} with a picture per column, None where that run drew
    another prompt. None where no run has pictures.

    Args:
        runs: arm -> folder.

    Raises:
        DamagedError: see `read_samples`.
    """
    drawn = {arm: folder / "samples" for arm, folder in runs.items() if sampled_iterations(folder / "samples")}
    if not drawn:
        return None
    columns = {arm: (samples, sampled_iterations(samples)[-1]) for arm, samples in drawn.items()}
    ends = ", ".join(f"{arm} after {counted(last)}" for arm, (_, last) in columns.items())
    about = f"Of each method its run with the first seed: {ends}."
    first, (samples, last) = next(iter(columns.items()))
    prompts = read_prompts(samples, last)
    if 0 in sampled_iterations(samples):
        columns = {"base model": (samples, 0), **columns}
        about += f" The base model's are those that {first} began with."
    prompts = prompts[: min(SHOWN, PICTURES // len(columns))]
    cells = [_column(*place, prompts, FULL_BYTES // len(columns)) for place in columns.values()]
    rows = [{"prompt": prompt, "cells": row} for prompt, *row in zip(prompts, *cells, strict=True)]
    return {"columns": list(columns), "rows": rows, "about": about}


def _column(samples: Path, iteration: int, prompts: Sequence[str], room: int) -> list[Picture | None]:
    """The pictures of some prompts, at their own size where these have room in the page."""
    drawn = read_samples(samples, iteration)[: len(prompts)]
    whole = full_bytes(drawn) <= room
    pictures = [picture_of(sample, samples.parent, whole) for sample in drawn]
    missing = [None] * (len(prompts) - len(pictures))
    return [
        picture if picture and picture.prompt == prompt else None
        for picture, prompt in zip([*pictures, *missing], prompts, strict=True)
    ]


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
