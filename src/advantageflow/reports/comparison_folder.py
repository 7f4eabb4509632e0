"""What `compare` leaves in its folder beside the runs: numbers, a table, figures and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from advantageflow.reports.comparison import LEGEND, draw_figure, draw_stability, table
from advantageflow.reports.comparison_page import write_comparison
from advantageflow.run.checkpoint import write_atomic
from advantageflow.studies.compare import Run, analyse
from advantageflow.studies.record import AXES


def write_all(runs: Sequence[Run], baseline: str, output: Path, score: str | None = None) -> dict[str, Any]:
    """Write comparison.json, comparison.md, the figures and, where its libraries are installed, report.html."""
    records = [run.record() for run in runs if run.finished]
    result = analyse(records, baseline, score)
    write_atomic(output / "comparison.json", json.dumps(result, indent=2) + "\n")
    write_atomic(output / "comparison.md", f"{table(result)}\n{LEGEND}")
    for axis in AXES:
        draw_figure({"": result}, axis, output / axis)
    draw_stability([record for record in records if record.label in result["arms"]], output / "stability")
    if find_spec("plotly") and find_spec("jinja2"):
        folders: dict[str, Path] = {}
        for run in runs:
            if run.finished and not run.diverged:
                folders.setdefault(run.arm.label, run.folder)
        write_comparison(result, output / "report.html", folders)
    return result
