"""Fewer images for the same reward: one combination of changes against every method at its own best.

The target on a recipe is the highest mean held-out score that a rival ends with; its rival is the one that has it. The
combination needs as many images as its mean curve takes to the target, and its share is that of the rival's whole run,
with a 95 % bootstrap interval over seeds in pairs. "Held" is a share of at most 0.4 that ends below 0.5 on the exact
verifier, and one of at most 0.5 on others; "not held" is one whose interval begins above that; else "not shown".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advantageflow.config import check_config
from advantageflow.plan import calls
from advantageflow.statistics import Interval, bootstrap, interpolate_curves, time_to_reach
from advantageflow.studies.record import Record


def passes_per_image(record: Record) -> float:
    """Passes of the transformer that an image costs, drawn and learned; a gradient is two more."""
    config = check_config(record.config)
    sampling, learning = calls(config)
    images = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
    return (sampling + sum(learning.values()) + 2 * learning["learner"]) / images


def rival_of(records: Sequence[Record], best: str, score: str) -> str:
    """Of the other arms the one with the highest mean last score."""
    last: dict[str, list[float]] = {}
    for record in records:
        if record.label != best and not record.diverged:
            last.setdefault(record.label, []).append(record.after[score])
    return max(last, key=lambda label: float(np.mean(last[label])))


def share_of_images(records: Sequence[Record], rivals: Sequence[Record], score: str) -> Interval:
    """Images until the mean curve of some runs reaches what the rivals' ends with, as a share of all of the rivals'.

    Args:
        records, rivals: of the same seeds in the same order.
    """
    ours, theirs = ([record.curve(score, "images") for record in side] for side in (records, rivals))
    grid = np.unique(np.concatenate([places for places, _ in (*ours, *theirs)]))
    curves, last = interpolate_curves(ours, grid), np.array([scores[-1] for _, scores in theirs])
    whole = theirs[0][0][-1]
    return bootstrap(ours, lambda seeds: time_to_reach(grid, curves[seeds].mean(0), last[seeds].mean()) / whole)
