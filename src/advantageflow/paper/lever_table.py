"""Every lever that was pulled, winners and losers: its score, and how sure it is that it beats where all begin.

Most have one seed, which has no spread of its own: all share the one of those with several. The p-values are corrected
for the number of levers. Those with several seeds were chosen by the first of them, which flatters them: the column
"further seeds" has the mean of the others alone. What was tried in longer runs is told of likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from advantageflow.paper.claims import signed
from advantageflow.paper.experiments import Panel
from advantageflow.paper.levers import lever
from advantageflow.paper.study import Study
from advantageflow.reports.page import p_text
from advantageflow.run.stored import read_list
from advantageflow.statistics import holm, pooled_spread
from advantageflow.tables import markdown_table

START = "start"
COLUMNS = ("lever", "seeds", "after 1920 images", "further seeds", "ahead of the start", "p of all")
LONGER_START = "scenes-best"
LONGER_COLUMNS = ("change of scenes-best", "runs", "strict", "exact", "graded", "ahead of it in strict", "p of all")


def lever_table(study: Study, panel: Panel) -> str:
    """All levers, the best first, in Markdown; empty while no two runs of one lever are in."""
    scores: dict[str, list[float]] = {}
    for record in study.records(panel):  # seeds in order
        if not record.diverged:
            scores.setdefault(record.label.removeprefix(lever("")), []).append(record.after[panel.score])
    further = {label: (f"{np.mean(found[1:]):.3f}" if len(found) > 1 else "",) for label, found in scores.items()}
    return _against(START, scores, further, COLUMNS)


def longer_table(file: Path) -> str:
    """What was tried in runs of the length of the recipe scenes-best, likewise, by the strict score that they ended at.

    Args:
        file: JSON, a list of runs {"arm", "changes", "seed", "machine", "evaluations": [[iteration, scores], ...]}.

    Raises:
        DamagedError: the file is missing or holds something else.
    """
    runs: dict[str, list[Mapping[str, float]]] = {}
    for run in read_list(file, {"arm": str, "evaluations": list}):
        runs.setdefault(run["arm"], []).append(run["evaluations"][-1][1])
    others = {
        arm: tuple(f"{np.mean([scores[name] for scores in found]):.3f}" for name in ("exact", "graded"))
        for arm, found in runs.items()
    }
    strict = {arm: [scores["strict"] for scores in found] for arm, found in runs.items()}
    return _against(LONGER_START, strict, others, LONGER_COLUMNS)


def _against(
    start: str, scores: Mapping[str, Sequence[float]], others: Mapping[str, tuple[str, ...]], columns: Sequence[str]
) -> str:
    """Means with intervals, the best first, and how far each is ahead of the start; `others` are further columns."""
    spread = pooled_spread(scores.values())
    if spread is None or start not in scores:
        return ""
    began, count = float(np.mean(scores[start])), len(scores[start])
    ahead = {
        label: (float(np.mean(found)) - began, 1 / len(found) + 1 / count)
        for label, found in scores.items()
        if label != start
    }
    p_values = holm({label: spread.p_value(*difference) for label, difference in ahead.items()})
    rows = [
        (
            label,
            str(len(found)),
            str(spread.interval(float(np.mean(found)), 1 / len(found))),
            *others[label],
            signed(spread.interval(*ahead[label])) if label in ahead else "",
            p_text(p_values[label] or 0.0) if label in ahead else "",
        )
        for label, found in sorted(scores.items(), key=lambda entry: -float(np.mean(entry[1])))
    ]
    told = (
        f"Seeds of one {columns[0].split()[0]} differ by {spread.deviation:.3f} ({spread.freedom} degrees of freedom)."
    )
    return f"{markdown_table(columns, rows)}\n{told}\n"
