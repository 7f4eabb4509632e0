"""What each method was measured to reach."""

from __future__ import annotations

from pathlib import Path

from advantageflow.config import load_config
from advantageflow.paper.experiments import FIGURES, changes_of
from advantageflow.reports.page import interval
from advantageflow.run.pace import counted
from advantageflow.run.stored import read_object


def measured(results: Path) -> dict[str, list[str]]:
    """Of the arms of each objective the last held-out scores after 4800 images, as `reproduce methods` wrote them.

    Args:
        results: the folder of results; where it has none of `reproduce methods`, nothing is known.
    """
    file, found = results / "methods.json", dict[str, list[str]]()
    content = read_object(file, {}) if file.is_file() else {}
    for panel in FIGURES["methods"]:
        for label, arm in content.get(panel.name, {}).get("arms", {}).items():
            objective = load_config(panel.recipe, changes_of(label)).objective.name
            seeds = counted(len(arm["seeds"]), "seed")
            told = f"{label}: {panel.score} {arm['before']:.3f} → {interval(arm['after'])}, {seeds}"
            found.setdefault(objective, []).append(told)
    return found
