"""Fewer images for the same reward: one combination of changes against every method at its own best.

A recipe's target is the highest mean held-out score that another method ends with, and that method is the rival. The
combination's share is the images that its mean curve takes to the target, of all that the rival had. The verdicts
follow fixed rules: "held" is a share of at most 0.4 whose interval ends below 0.5 on the exact verifier, and one of at
most 0.5 on other rewards, at no more than 1.1 times the passes of the transformer for an image, and with no less
variety and no lower share of right pictures, which nothing is trained on, after that many images than the rival has at
its end: neither mean difference lies below 0 with its whole interval. "Not held" is a share whose interval lies above
the limit, or a condition that fails; else it is "not shown".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advantageflow.config import check_config
from advantageflow.paper.claims import FEWEST_SEEDS, NOT_SHOWN, PENDING, signed
from advantageflow.paper.experiments import BEST, FIGURES, SAME_CHANGES, Panel
from advantageflow.paper.study import Study
from advantageflow.plan import calls
from advantageflow.reports.page import interval
from advantageflow.run.pace import counted
from advantageflow.statistics import Interval, bootstrap, interpolate_curves, t_interval, time_to_reach
from advantageflow.studies.record import Record
from advantageflow.tables import markdown_table

HELD, NOT_HELD = "held", "not held"
UNSEEN = "exact"  # the score that nothing is trained on
MOST_PASSES = 1.1  # for an image, of the rival's


@dataclass(frozen=True)
class Limit:
    """A share of the rival's images, and what the upper end of its interval must lie below."""

    share: float
    high: float = float("inf")


LIMITS = {"frontier-scenes": Limit(0.4, 0.5)}
OTHER_REWARDS = Limit(0.5)


def passes_per_image(record: Record) -> float:
    """Images put through the transformer for each that is drawn and learned from; a gradient counts as two more."""
    config = check_config(record.config)
    sampling, learning = calls(config)
    images = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
    return (sampling + sum(learning.values()) + 2 * learning["learner"]) / images


def rival_of(records: Sequence[Record], score: str) -> str:
    """Of all labels but the combination's the one with the highest mean last score."""
    last: dict[str, list[float]] = {}
    for record in records:
        if record.label != BEST:
            last.setdefault(record.label, []).append(record.after[score])
    return max(last, key=lambda label: float(np.mean(last[label])))


def share_of_images(records: Sequence[Record], rivals: Sequence[Record], score: str) -> Interval:
    """Images until the mean curve of runs reaches what the rivals' ends with, of all that those had.

    Seeds are resampled in pairs; infinity means that the target is not reached.

    Args:
        records, rivals: of the same seeds in the same order.
    """
    ours, theirs = ([record.curve(score, "images") for record in side] for side in (records, rivals))
    grid = np.unique(np.concatenate([places for places, _ in ours]))
    curves, last = interpolate_curves(ours, grid), np.array([scores[-1] for _, scores in theirs])
    whole = theirs[0][0][-1]
    return bootstrap(ours, lambda seeds: time_to_reach(grid, curves[seeds].mean(0), last[seeds].mean()) / whole)


def add_passes(result: dict[str, Any], records: Sequence[Record]) -> None:
    """Give each arm of an analysis its curves over passes of the transformer."""
    costs = {record.label: passes_per_image(record) for record in records}
    for label, arm in result["arms"].items():
        arm["curves"]["passes"] = [
            ([place * costs[label] for place in places], scores) for places, scores in arm["curves"]["images"]
        ]


def _after(record: Record, share: float, name: str) -> float:
    """A held-out score, or the variety of a prompt's images, after a share of a run."""
    if name == "diversity":
        values = record.metrics[name]
        return float(values[max(round(share * len(values)) - 1, 0)] or 0.0)
    places, scores = record.curve(name, "images")
    return float(np.interp(share * places[-1], places, scores))


def _ahead(pairs: Sequence[tuple[Record, Record]], share: float, name: str) -> Interval | None:
    """By how much the combination, after a share of its run, is ahead of the rival's end; None where nobody asked."""
    if name != "diversity" and name not in pairs[0][0].after:
        return None
    return t_interval([_after(ours, share, name) - _after(rival, 1.0, name) for ours, rival in pairs])


def row(study: Study, panel: Panel) -> tuple[str, ...]:
    """What was found on a recipe: see `COLUMNS`."""
    records = [record for record in study.records(panel) if not record.diverged and record.label != SAME_CHANGES]
    own = {record.seed: record for record in records if record.label == BEST}
    if not own or len(own) == len(records):
        return (panel.title, *[""] * (len(COLUMNS) - 2), PENDING)
    rival = rival_of(records, panel.score)
    pairs = [(own[other.seed], other) for other in records if other.label == rival and other.seed in own]
    pairs = [(ours, other) for ours, other in pairs if UNSEEN in other.after or UNSEEN not in ours.after]
    if len(pairs) < FEWEST_SEEDS:
        return (panel.title, rival, *[""] * (len(COLUMNS) - 3), PENDING)
    limit, (ours, rivals) = LIMITS.get(panel.name, OTHER_REWARDS), zip(*pairs, strict=True)
    share = share_of_images(ours, rivals, panel.score)
    passes = passes_per_image(ours[0]) / passes_per_image(rivals[0])
    changes = [_ahead(pairs, limit.share, name) for name in (UNSEEN, "diversity")]
    if share.low > limit.share or passes > MOST_PASSES or any(change and change.high < 0 for change in changes):
        verdict = NOT_HELD
    else:
        verdict = HELD if share.value <= limit.share and share.high < limit.high else NOT_SHOWN
    target = float(np.mean([record.after[panel.score] for record in rivals]))
    in_passes = Interval(*(passes * part for part in (share.value, share.low, share.high)))
    return (
        panel.title,
        f"{rival}: {target:.3f}, {counted(len(pairs), 'seed')}",
        interval(share.plain(), 2),
        f"{interval(in_passes.plain(), 2)}; of an image {passes:.2f}",
        *("" if change is None else signed(change) for change in changes),
        verdict,
    )


COLUMNS = ("reward", "rival", "images", "passes", "right pictures", "variety", "verdict")


def frontier_table(study: Study) -> str:
    """Every recipe with the rival, what the combination needs as shares of its costs, and the verdict, in Markdown."""
    return markdown_table(COLUMNS, [row(study, panel) for panel in FIGURES["frontier"]])
