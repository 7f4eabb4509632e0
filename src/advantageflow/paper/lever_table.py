"""Every lever that was pulled, winners and losers: its score, and how sure it is that it beats where all begin.

Most have one seed, which has no spread of its own: all share the one of those with several. The p-values are corrected
for the number of levers. Those with several seeds were chosen by the first of them, which flatters them: the column
"further seeds" has the mean of the others alone.
"""

from __future__ import annotations

import numpy as np

from advantageflow.paper.claims import signed
from advantageflow.paper.experiments import Panel
from advantageflow.paper.levers import lever
from advantageflow.paper.study import Study
from advantageflow.reports.page import p_text
from advantageflow.statistics import holm, pooled_spread
from advantageflow.tables import markdown_table

START = lever("start")


def lever_table(study: Study, panel: Panel) -> str:
    """All levers, the best first, in Markdown; empty while no two runs of one lever are in."""
    scores: dict[str, list[float]] = {}
    for record in study.records(panel):  # seeds in order
        if not record.diverged:
            scores.setdefault(record.label, []).append(record.after[panel.score])
    spread = pooled_spread(scores.values())
    if spread is None or START not in scores:
        return ""
    start, began = float(np.mean(scores[START])), len(scores[START])
    ahead = {
        label: (float(np.mean(found)) - start, 1 / len(found) + 1 / began)
        for label, found in scores.items()
        if label != START
    }
    p_values = holm({label: spread.p_value(*difference) for label, difference in ahead.items()})
    rows = [
        (
            label.removeprefix(lever("")),
            str(len(found)),
            str(spread.interval(float(np.mean(found)), 1 / len(found))),
            f"{np.mean(found[1:]):.3f}" if len(found) > 1 else "",
            signed(spread.interval(*ahead[label])) if label in ahead else "",
            p_text(p_values[label] or 0.0) if label in ahead else "",
        )
        for label, found in sorted(scores.items(), key=lambda entry: -float(np.mean(entry[1])))
    ]
    told = f"Seeds of one lever differ by {spread.deviation:.3f} ({spread.freedom} degrees of freedom)."
    return f"{markdown_table(COLUMNS, rows)}\n{told}\n"


COLUMNS = ("lever", "seeds", "after 1920 images", "further seeds", "ahead of the start", "p of all")
