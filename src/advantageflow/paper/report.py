"""Tables, figures and verdicts from the records that there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advantageflow.paper.claims import claims_table
from advantageflow.paper.experiments import FIELD_RATES, FIGURES, SEARCHED_RATES, Panel, gamma_arm
from advantageflow.paper.frontier import add_passes, frontier_table
from advantageflow.paper.lever_table import lever_table, longer_table
from advantageflow.paper.study import Study, table1
from advantageflow.reports.comparison import draw_ends, draw_figure, draw_rates, draw_stability, named_rows, table
from advantageflow.run.checkpoint import write_atomic
from advantageflow.statistics import bootstrap_mean
from advantageflow.studies.compare import analyse
from advantageflow.studies.record import Record


def report(study: Study, names: Sequence[str]) -> list[str]:
    """Write each figure's numbers, tables and pictures, and the verdicts; returns the figures with any records."""
    written = [name for name in names if (_write_table1(study) if name == "table1" else _write(study, name))]
    write_atomic(study.results / "claims.md", claims_table(study))
    return written


def _write(study: Study, name: str) -> bool:
    panels = FIGURES[name]
    analysed = {panel.name: _analyse(study, panel) for panel in panels}
    results = {panel: result for panel, result in analysed.items() if result is not None}
    if not results:
        return False
    file = study.results / name
    titles = {panel.name: panel.title for panel in panels}
    made = provenance(study, name)
    write_atomic(file.with_suffix(".json"), json.dumps({"made": made, **results}, indent=1) + "\n")
    tables = [f"### {titles[panel]}\n\n{table(result)}" for panel, result in results.items()]
    if name == "frontier":
        tables.insert(0, frontier_table(study))
    if name == "lever-search":
        longer = study.results / "longer.json"
        told = [f"### changes, runs of 15360 images\n\n{longer_table(longer)}"] if longer.exists() else []
        tables = [lever_table(study, *panels), *told, *tables]
    write_atomic(file.with_suffix(".md"), "\n".join([*tables, _told(made)]))
    drawn = {titles[panel]: result for panel, result in results.items()}
    if name in ("lever-search", "methods"):  # too many arms for curves
        draw_ends(drawn, file)
    elif name.endswith("search"):
        for panel, result in results.items():
            tried = {label.rpartition(", ")[0] for label in result["arms"]}
            rates = {label: found for label, found in (SEARCHED_RATES | FIELD_RATES).items() if label in tried}
            draw_rates(result, rates, study.results / panel)
    else:
        draw_figure(drawn, "images", file)
    if name == "frontier":
        for compared in panels:
            if compared.name in results:
                add_passes(results[compared.name], study.records(compared))
        draw_figure(drawn, "passes", study.results / "frontier-passes", "images put through the transformer")
    if name == "fig3b":
        gamma, unregularized = panels[:2]
        unstable = [record for record in study.records(gamma) if record.label == gamma_arm(0.2)]
        draw_stability([*study.records(unregularized), *unstable], study.results / "stability")
    return True


def provenance(study: Study, name: str) -> dict[str, Any]:
    """The command that makes a figure, and the runs it is made of: how many, at which commits, on which machines."""
    files = {file for panel in FIGURES[name] for file in study.files(panel)}
    found = [Record.load(file).environment for file in files]
    return {
        "command": f"advantageflow reproduce {name}",
        "runs": len(found),
        "commits": sorted({str(made.get("commit")) for made in found}),
        "machines": sorted({f"{made.get('processor')} with {made.get('cpus')} CPUs" for made in found}),
    }


def _told(made: Mapping[str, Any]) -> str:
    commits, machines = ", ".join(made["commits"]), " and ".join(made["machines"])
    return f"`{made['command']}`: {made['runs']} runs, made at {commits} on {machines}.\n"


def _analyse(study: Study, panel: Panel) -> dict[str, Any] | None:
    """None where the baseline, or all but it, is missing."""
    records = study.records(panel)
    labels = {record.label for record in records if not record.diverged}
    if panel.baseline not in labels or len(labels) < 2:
        return None
    return analyse(records, panel.baseline, panel.score)


def _write_table1(study: Study) -> bool:
    found = table1(study)
    if not any(found.values()):
        return False
    made = provenance(study, "table1")
    write_atomic(study.results / "table1.json", json.dumps({"made": made, **found}, indent=1) + "\n")
    write_atomic(study.results / "table1.md", f"{table1_markdown(study)}\n{_told(made)}")
    return True


def table1_markdown(study: Study) -> str:
    """Table 1: strict scores by task, means over seeds, without and with guidance; overall with its interval."""
    found = table1(study)
    tasks = list(next((rows for arms in found.values() for rows in arms.values()), {}))
    rows = {
        f"{arm}, " + ("no guidance" if guidance == "1" else f"guidance {guidance}"): [
            str(bootstrap_mean(scores[task]))
            if task == "overall" and len(scores[task]) > 1
            else f"{np.mean(scores[task]):.3f}"
            for task in tasks
        ]
        for guidance, arms in found.items()
        for arm, scores in arms.items()
    }
    told = "Overall is the mean over tasks, with its 95 % bootstrap interval over seeds; the base model has none."
    return f"{named_rows(tasks, rows)}\n{told}\n"
