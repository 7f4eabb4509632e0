"""Running the experiments, and what is kept of them.

Runs of equal recipe, arm and seed are shared by all panels. The record of every finished run is kept as a small file in
the results folder, so that results grow piece by piece, and what is drawn and claimed needs nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from advantageflow.config import ConfigError, check_config, flatten, load_config
from advantageflow.paper.experiments import (
    GUIDANCE,
    METHODS,
    MULTI,
    SEARCH,
    SEARCHED_RATES,
    Panel,
    changes_of,
    searched,
)
from advantageflow.run.changes import differing
from advantageflow.run.directory import RunDirectory
from advantageflow.run.stored import read_object
from advantageflow.studies import children
from advantageflow.studies.compare import Arm, Run, finish, slug
from advantageflow.studies.processes import child_environment
from advantageflow.studies.record import Record


@dataclass(frozen=True)
class Study:
    """Where runs and results are, and how large the runs are.

    Args:
        changes: to every recipe.
        seeds: at most so many of a panel.
    """

    runs: Path
    results: Path
    changes: tuple[str, ...] = ()
    seeds: int | None = None

    def plan(self, panels: Sequence[Panel], known: Sequence[Run] = ()) -> list[Run]:
        """Every run of the panels once, but for those that are known; all arms of a seed before the next seed.

        A panel with finalists has the other seeds once all of the first are in: plan again then.

        Raises:
            ConfigError: there is a record of one of them with other settings, or it was begun with others.
        """
        found: dict[Path, tuple[int, Run]] = {}
        for panel in panels:
            finalists = self.finalists(panel)
            for rank, seed in enumerate(panel.seeds[: self.seeds]):
                for label in panel.arms if rank == 0 else finalists:
                    folder = self.runs / panel.recipe / f"{slug(label)}-{seed}"
                    arm = Arm(label, panel.recipe, changes_of(label, self.changes))
                    found.setdefault(folder, (rank, Run(arm, seed, folder, self.changes)))
        planned = {run.folder for run in known}
        runs = [run for _, run in sorted(found.values(), key=lambda entry: entry[0]) if run.folder not in planned]
        for run in runs:
            self._check(run)
        return runs

    def finalists(self, panel: Panel) -> tuple[str, ...]:
        """The arms that get more than the first seed; none while one of that is missing."""
        if not panel.finalists:
            return panel.arms
        first = replace(panel, seeds=panel.seeds[:1])
        if len(self.files(first)) < len(panel.arms):
            return ()
        scores = {record.label: record.after[panel.score] for record in self.records(first) if not record.diverged}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: panel.finalists]
        return tuple(label for label in panel.arms if label in (*best, panel.baseline))

    def _check(self, run: Run) -> None:
        file = self.file(run.arm.recipe, run.arm.label, run.seed)
        if file.exists():
            made, config = f"the record {file} was made", check_config(Record.load(file).config)
        elif (run.folder / "config.yaml").exists():
            made, config = f"the run in {run.folder} was begun", RunDirectory(run.folder).config()
        else:
            return
        then = flatten(config.model_dump(mode="json"))
        changes = [*run.arm.changes, *run.changes, f"seed={run.seed}", f"run.threads={then['run.threads']}"]
        now = flatten(load_config(run.arm.recipe, changes).model_dump(mode="json"))
        kept, asked = then["evaluation.rewards"], now["evaluation.rewards"]
        if list(kept) == list(asked)[: len(kept)] and kept.items() <= asked.items():  # a score was added since
            then["evaluation.rewards"] = asked
        told = differing(then, now)
        if told:
            raise ConfigError(f"{made} with other settings ({told}); remove it to run again")

    def file(self, recipe: str, label: str, seed: int) -> Path:
        """Where the record of a run is kept."""
        return self.results / "runs" / Path(recipe).name / f"{slug(label)}-{seed}.json"

    def files(self, panel: Panel) -> list[Path]:
        """The records that there are of a panel."""
        files = [self.file(panel.recipe, label, seed) for label in panel.arms for seed in panel.seeds[: self.seeds]]
        return [file for file in files if file.exists()]

    def records(self, panel: Panel) -> list[Record]:
        """What has been finished of a panel."""
        records = [Record.load(file) for file in self.files(panel)]
        if panel.parts:
            for record in records:
                for _, scores in record.evaluations:
                    scores[panel.score] = sum(scores[part] for part in panel.parts)
        return records

    def finish(self, run: Run, threads: int) -> None:
        """Bring a run to its end, keep its record, and score a multi-reward policy by the verifier (Table 1)."""
        file = self.file(run.arm.recipe, run.arm.label, run.seed)
        scored = f"{slug(run.arm.label)}-{run.seed}"
        if not file.exists():
            finish(run, threads)
            run.record().save(file)
            self._scores(scored).unlink(missing_ok=True)  # perhaps of another policy
        if run.arm.recipe == MULTI.recipe:
            self.score(f"scenes+{run.folder / 'lora'}", scored, threads)

    def _scores(self, name: str) -> Path:
        return self.results / "table1" / f"{name}.json"

    def score(self, model: str, name: str, threads: int) -> None:
        """Evaluate a policy on the verifier, without and with guidance."""
        file = self._scores(name)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        images = next((change.split("=")[1] for change in self.changes if "num_images" in change), "480")
        command = [sys.executable, "-m", "advantageflow", "evaluate", model, "--guidance", f"1,{GUIDANCE}"]
        command += ["--reward", "strict=scenes_strict", "--images", images, "--json", str(file)]
        pipe = subprocess.PIPE
        done = children.run(command, child_environment(threads), stdout=pipe, stderr=pipe)
        if done.returncode:
            raise ConfigError(f"cannot evaluate {model}: {done.stderr.strip()}; to train it again, remove its record")


def tasks(study: Study, plan: Sequence[Run], threads: int) -> list[Callable[[], str]]:
    """What finishes every run, one each, and scores the base model where that is needed; each gives a line about it."""

    def one(run: Run) -> str:
        study.finish(run, threads)
        return f"{run.arm.recipe}: {run.arm.label}, seed {run.seed}" + (f": {run.stopped}" if run.diverged else "")

    def base() -> str:
        study.score("scenes", "base", threads)
        return "Table 1: the base model"

    found: list[Callable[[], str]] = [partial(one, run) for run in plan]
    return [*found, base] if any(run.arm.recipe == MULTI.recipe for run in plan) else found


def table1(study: Study) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Strict scores of the multi-reward policies: guidance -> arm -> task or "overall" -> one per seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {"1": {}, f"{GUIDANCE:g}": {}}
    names = {"base": ["base"], **{arm: [f"{slug(arm)}-{seed}" for seed in MULTI.seeds] for arm in MULTI.arms}}
    for arm, stems in names.items():
        for stem in stems:
            file = study.results / "table1" / f"{stem}.json"
            if not file.exists():
                continue
            columns = read_object(file, {"models": dict})["models"]
            for column, scores in columns.items():
                guidance = re.search(r"guidance ([\d.]+)$", column)
                assert guidance is not None
                rows = found[guidance[1]].setdefault(arm, {})
                overall = scores["strict"]["tasks"]  # the mean over tasks, as GenEval's
                tasks = {task: mean for task, mean in scores["strict"].items() if task not in ("all", "tasks")}
                for task, mean in {**tasks, "overall": overall}.items():
                    rows.setdefault(task, []).append(mean["mean"])
    return found


def best_rates(study: Study) -> Mapping[str, float]:
    """Each method's searched learning rate with the highest last held-out score."""
    scores = {record.label: record.after[SEARCH.score] for record in study.records(SEARCH) if not record.diverged}
    return {
        method: max(SEARCHED_RATES[method], key=lambda rate: scores.get(searched(method, rate), float("-inf")))
        for method in METHODS
    }
