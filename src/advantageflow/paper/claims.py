"""What the paper claims, held against the records of `advantageflow reproduce`; the verdicts follow fixed rules.

A method is *faster* by the images it needs to reach the best held-out score of DiffusionNFT, as a share of those that
DiffusionNFT needs itself: "reproduced" if that is at most the paper's share and its interval ends below 1; "different
here" if only the latter holds; "not shown" if the interval holds 1; else "not reproduced". One method is *better* than
another by the last held-out score, seed by seed: "reproduced" if the 95 % interval of the mean difference lies above 0,
"not reproduced" if below, else "not shown"; where the paper has it *doubled*, that takes a factor of two in the means,
and a mere lead is "different here". Two are *alike* if that interval lies within ±0.05.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import mean

from advantageflow.paper.experiments import (
    AF,
    AF_A,
    CLIP,
    FIGURES,
    GRPO,
    GUIDANCE,
    NFT,
    PREFERENCE,
    SCENES,
    WORDS,
    Panel,
    gamma_arm,
)
from advantageflow.paper.study import Study, table1
from advantageflow.reports.page import interval
from advantageflow.statistics import Interval, t_interval
from advantageflow.studies.compare import analyse
from advantageflow.tables import markdown_table

REPRODUCED, DIFFERENT, NOT_SHOWN, NOT_REPRODUCED = "reproduced", "different here", "not shown", "not reproduced"
PENDING = "not run yet"
FEWEST_SEEDS = 3  # for a verdict
MARGIN = 0.05  # scores that differ by less are alike


@dataclass(frozen=True)
class Finding:
    """What was measured, and the verdict."""

    measured: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    figure: str
    text: str
    check: Callable[[Study], Finding | None]


def faster(panel: Panel, arm: str, share: float, study: Study) -> Finding | None:
    records = [record for record in study.records(panel) if record.label in (arm, NFT)]
    seeds = [
        {record.seed for record in records if record.label == label and not record.diverged} for label in (arm, NFT)
    ]
    if len(seeds[0] & seeds[1]) < FEWEST_SEEDS:
        return None
    ratios = analyse(records, NFT, panel.score)["arms"][arm]["time_ratio"]
    value, low, high = (ratios["images"][part] for part in ("value", "low", "high"))
    if value is not None and high is not None and high < 1:
        verdict = REPRODUCED if value <= share else DIFFERENT
    elif low is not None and low < 1:
        verdict = NOT_SHOWN
    else:
        verdict = NOT_REPRODUCED
    shares = f"{interval(ratios['images'], 2)} of the images"
    if ratios["seconds"]:
        shares += f", {interval(ratios['seconds'], 2)} of the time"
    return Finding(f"{panel.title}: {arm} needs {shares}", verdict)


def better(panel: Panel, arm: str, other: str, study: Study) -> Finding | None:
    return _verdict(_difference(panel, arm, other, study), f"{panel.title}: {arm} - {other}")


def doubled(panel: Panel, arm: str, other: str, study: Study) -> Finding | None:
    records = study.records(panel)
    higher = _difference(panel, arm, other, study)
    if higher is None:
        return None
    ours, theirs = (
        [r.after[panel.score] for r in records if r.label == label and r.evaluations] for label in (arm, other)
    )
    ratio = mean(ours) / mean(theirs)
    verdict = REPRODUCED if ratio >= 2 else DIFFERENT if higher.low > 0 else NOT_SHOWN
    measured = f"{panel.title}: {mean(ours):.3f} against {mean(theirs):.3f}, a factor of {ratio:.2f}: {signed(higher)}"
    return Finding(measured, verdict if higher.high > 0 else NOT_REPRODUCED)


def alike(panel: Panel, arm: str, other: str, study: Study) -> Finding | None:
    found = _difference(panel, arm, other, study)
    if found is None:
        return None
    within = found.low >= -MARGIN and found.high <= MARGIN
    apart = found.low > 0 or found.high < 0
    verdict = REPRODUCED if within else NOT_REPRODUCED if apart else NOT_SHOWN
    return Finding(f"{panel.title}: {arm} - {other}: {signed(found)}", verdict)


def better_in_table(arm: str, other: str, guidance: float, study: Study) -> Finding | None:
    rows = table1(study)[f"{guidance:g}"]
    if arm not in rows or other not in rows:
        return None
    ours, theirs = rows[arm]["overall"], rows[other]["overall"]
    theirs = theirs * len(ours) if other == "base" else theirs
    with_guidance = "without guidance" if guidance == 1 else f"guidance {guidance:g}"
    if min(len(ours), len(theirs)) < FEWEST_SEEDS:
        return None
    return _verdict(
        t_interval([one - two for one, two in zip(ours, theirs, strict=False)]), f"{with_guidance}: {arm} - {other}"
    )


def _difference(panel: Panel, arm: str, other: str, study: Study) -> Interval | None:
    """Of the last scores; a run that diverged counts with the last that was made."""
    last: dict[str, dict[int, float]] = {arm: {}, other: {}}
    for record in study.records(panel):
        if record.label in last and record.evaluations:
            last[record.label][record.seed] = record.after[panel.score]
    seeds = sorted(set(last[arm]) & set(last[other]))
    if len(seeds) < FEWEST_SEEDS:
        return None
    return t_interval([last[arm][seed] - last[other][seed] for seed in seeds])


def _verdict(difference: Interval | None, text: str) -> Finding | None:
    if difference is None:
        return None
    verdict = REPRODUCED if difference.low > 0 else NOT_REPRODUCED if difference.high < 0 else NOT_SHOWN
    return Finding(f"{text}: {signed(difference)}", verdict)


def signed(change: Interval) -> str:
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _claims() -> list[Claim]:
    total, clip_part, preference_part, _ = FIGURES["fig3a"]
    gamma, unregularized, recentred = FIGURES["fig3b"]
    (weak,), (large, _), (steps,) = FIGURES["fig3c"], FIGURES["fig5"], FIGURES["steps"]
    claims = []
    for panel in (SCENES, PREFERENCE, CLIP):
        for arm in (AF_A, AF):
            text = f"{arm} reaches DiffusionNFT's best in half of the time"
            claims.append(Claim("2", text, partial(faster, panel, arm, 0.5)))
        claims.append(Claim("2", "AdvantageFlow(1.1) is slightly better than (1-A)", partial(better, panel, AF, AF_A)))
        claims.append(Claim("2", "Flow-GRPO is behind DiffusionNFT", partial(better, panel, NFT, GRPO)))
    claims += [
        Claim("2", "on OCR, AdvantageFlow(1-A) has twice DiffusionNFT's reward", partial(doubled, WORDS, AF_A, NFT)),
        Claim("2", "on OCR, AdvantageFlow(1.1) is slightly better than (1-A)", partial(better, WORDS, AF, AF_A)),
        Claim("2", "on OCR, Flow-GRPO is above DiffusionNFT", partial(better, WORDS, GRPO, NFT)),
        Claim("-", "AdvantageFlow(1-A) is ahead of DiffusionNFT at equal curvature, too",
              partial(better, steps, AF_A, "DiffusionNFT, curvature 1")),
        Claim("-", "dividing by errors, as DiffusionNFT does, helps AdvantageFlow(1-A)",
              partial(better, steps, "AdvantageFlow(1-A), divided by errors", AF_A)),
    ]  # fmt: skip
    for arm in (AF_A, AF):
        text = f"{arm} on the sum of rewards reaches DiffusionNFT's best in less than half of the time"
        claims += [Claim("3a", text, partial(faster, panel, arm, 0.5)) for panel in (total, clip_part, preference_part)]
    claims += [
        Claim("3b", "too small a γ is unstable", partial(better, gamma, AF, gamma_arm(0.2))),
        Claim("3b", "too large a γ is slow", partial(better, gamma, AF, gamma_arm(5))),
        Claim("-", "without the rollout term learning is unstable", partial(better, unregularized, AF, gamma_arm(0))),
        Claim("-", "re-centring advantages after clipping helps",
              partial(better, recentred, "AdvantageFlow(1.1), re-centred", AF)),
        Claim("3c", "AdvantageFlow(0.01-0.1A) is as good as DiffusionNFT at β = 0.1",
              partial(alike, weak, "AdvantageFlow(0.01-0.1A)", "DiffusionNFT(β=0.1)")),
        Claim("3c", "AdvantageFlow(0.01-0.1A) is above Flow-GRPO",
              partial(better, weak, "AdvantageFlow(0.01-0.1A)", GRPO)),
        Claim("3c", "DiffusionNFT at β = 0.1 is above Flow-GRPO", partial(better, weak, "DiffusionNFT(β=0.1)", GRPO)),
    ]  # fmt: skip
    for arm in (AF_A, AF):
        text = f"with four times the images {arm} reaches DiffusionNFT's best in less than a third of the time"
        claims.append(Claim("5", text, partial(faster, large, arm, 1 / 3)))
    for guidance in (1.0, GUIDANCE):
        claims += [
            Claim("Table 1", f"{arm} beats {other} on a score it was not trained on",
                  partial(better_in_table, arm, other, guidance))
            for arm, other in ((NFT, "base"), (AF_A, NFT), (AF, NFT), (AF, AF_A))
        ]  # fmt: skip
    return claims


CLAIMS = _claims()


def claims_table(study: Study) -> str:
    """Every claim with what was measured and the verdict, in Markdown."""
    found = [(claim, claim.check(study) or Finding("", PENDING)) for claim in CLAIMS]
    rows = [(claim.figure, claim.text, finding.measured, finding.verdict) for claim, finding in found]
    return markdown_table(["figure", "the paper's claim", "here", "verdict"], rows)
