"""The paper's experiments at the size of the built-in worlds: `advantageflow reproduce`.

A figure is a few panels; a panel compares arms on one recipe; runs of equal recipe, arm and seed are shared by all
panels. The record of every finished run is kept as a small file in the results folder, so that results grow piece by
piece, and what is drawn and claimed needs nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from advantageflow.checkpoint import write_atomic
from advantageflow.compare import Arm, Run, analyse, child_environment, finish, in_parallel, slug
from advantageflow.config import ConfigError
from advantageflow.record import Record

AF, AF_A, NFT, GRPO = "AdvantageFlow(1.1)", "AdvantageFlow(1-A)", "DiffusionNFT", "Flow-GRPO"
METHODS: dict[str, tuple[str, ...]] = {
    AF_A: ("objective=advantageflow", "objective.gamma=1-A"),
    AF: ("objective=advantageflow", "objective.gamma=1.1"),
    # λ is .001 for both, as in the paper; the rollout policy moves alike
    NFT: ("objective=nft", "policy.rollout_decay=0.8", "objective.reference_weight=0.001"),
    GRPO: ("objective=flow-grpo", "learn.transitions=4"),
}
# The learning-rate search: four rates for every method, so placed that the best is not at an end, on a seed that is
# used for nothing else.
SEARCH_SEED = 1000
SEARCHED_RATES: dict[str, tuple[float, ...]] = {
    AF_A: (1e-3, 2e-3, 4e-3, 8e-3),
    AF: (1e-3, 2e-3, 4e-3, 8e-3),
    NFT: (5e-4, 1e-3, 2e-3, 4e-3),
    GRPO: (5e-4, 1e-3, 2e-3, 4e-3),
}
# What it chose: the highest last held-out score. A test holds this against the stored results.
LEARNING_RATES = {AF_A: 4e-3, AF: 4e-3, NFT: 2e-3, GRPO: 1e-3}
GAMMAS = (0, 0.2, 0.5, 2, 5)
# What lies between DiffusionNFT and AdvantageFlow(1-A): its code's curvature is 5β, it scales by errors, and it divides
# by the spread of raw rewards. With all three changed, only the space of the reference term differs.
STEPS: dict[str, tuple[str, ...]] = {
    "DiffusionNFT, curvature 1": ("objective.beta=0.2",),
    "DiffusionNFT, plain squares": ("objective.adaptive_scale=false",),
    "DiffusionNFT, eq. 6": ("advantage.normalize=centered_rms", "advantage.clip=1"),
    "DiffusionNFT, curvature 1, plain squares": ("objective.beta=0.2", "objective.adaptive_scale=false"),
}
GUIDANCE = 2.0  # of Table 1's second half
QUICK = ("run.iterations=8", "evaluation.every=4", "evaluation.num_images=240")


def gamma_arm(gamma: float) -> str:
    return f"AdvantageFlow(γ={gamma:g})"


def _searched(method: str, rate: float) -> str:
    return f"{method}, {rate:g}"


def _arms() -> dict[str, tuple[str, ...]]:
    """Every arm by its label, learning rate included."""
    found = {method: (*changes, _rate(LEARNING_RATES[method])) for method, changes in METHODS.items()}
    found |= {gamma_arm(g): ("objective=advantageflow", f"objective.gamma={g}", found[AF][-1]) for g in GAMMAS}
    weaker = ("objective=advantageflow", "objective.beta=0.1")
    found |= {
        "AdvantageFlow(0.01-0.1A)": (*weaker, "objective.gamma=1-A", found[AF_A][-1]),
        "AdvantageFlow(0.01)": (*weaker, "objective.gamma=0.01", found[AF][-1]),
        "DiffusionNFT(β=0.1)": (*METHODS[NFT], "objective.beta=0.1", found[NFT][-1]),
        "AdvantageFlow(1.1), re-centred": (*found[AF], "advantage.recenter=true"),
    }
    found |= {step: (*METHODS[NFT], *changes, found[AF_A][-1]) for step, changes in STEPS.items()}
    return found | {
        _searched(method, rate): (*changes, _rate(rate))
        for method, changes in METHODS.items()
        for rate in SEARCHED_RATES[method]
    }


def _rate(rate: float) -> str:
    return f"learn.learning_rate={rate}"


ARMS = _arms()


@dataclass(frozen=True)
class Panel:
    """Arms compared on one recipe.

    Args:
        score: the held-out score that counts.
        baseline: the arm whose best sets the target of the time ratio.
    """

    name: str
    title: str
    recipe: str
    score: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str = NFT


FOUR, THREE_SEEDS = tuple(METHODS), (0, 1, 2)
SCENES = Panel("scenes", "exact verifier", "paper/scenes", "graded", FOUR, (0, 1, 2, 3, 4))
PREFERENCE = Panel("preference", "learned preference", "paper/preference", "preference", FOUR, THREE_SEEDS)
CLIP = Panel("clip", "learned image-text score", "paper/clip", "clip", FOUR, THREE_SEEDS)
WORDS = Panel("words", "words read by OCR", "paper/words", "ocr", FOUR, THREE_SEEDS)
MULTI = Panel("multi", "sum of the learned rewards", "paper/multi", "strict", FOUR, THREE_SEEDS)
SWEEP = tuple(gamma_arm(gamma) for gamma in GAMMAS)
SEARCH = Panel(
    "search",
    "learning rates",
    "paper/scenes",
    "graded",
    tuple(_searched(method, rate) for method in METHODS for rate in SEARCHED_RATES[method]),
    (SEARCH_SEED,),
    _searched(NFT, SEARCHED_RATES[NFT][0]),
)
FIGURES: dict[str, tuple[Panel, ...]] = {
    "search": (SEARCH,),
    "fig2": (SCENES, PREFERENCE, CLIP, WORDS),
    "fig3a": (
        MULTI,
        replace(MULTI, name="multi-clip", title="its image-text part", score="clip"),
        replace(MULTI, name="multi-preference", title="its preference part", score="preference"),
    ),
    "fig3b": (
        Panel("gamma", "rollout weight γ", "paper/scenes", "graded", (AF, *SWEEP), THREE_SEEDS, AF),
        Panel("recentred", "advantages re-centred", "paper/scenes", "graded",
              (AF, "AdvantageFlow(1.1), re-centred"), THREE_SEEDS, AF),
    ),
    "fig3c": (
        Panel("words-weak", "words, β = 0.1", "paper/words", "ocr",
              ("AdvantageFlow(0.01-0.1A)", "AdvantageFlow(0.01)", "DiffusionNFT(β=0.1)", GRPO),
              THREE_SEEDS, "DiffusionNFT(β=0.1)"),
    ),
    "fig5": (
        Panel("large", "four times the images of a prompt", "paper/large", "strict", (AF_A, AF, NFT), THREE_SEEDS),
    ),
    "steps": (
        Panel("steps", "from DiffusionNFT to AdvantageFlow(1-A)", "paper/scenes", "graded", (NFT, *STEPS, AF_A),
              THREE_SEEDS),
    ),
    "table1": (replace(MULTI, name="table1", title="the verifier, never trained on"),),
}  # fmt: skip


def figures(name: str) -> list[str]:
    """The figures that a command's argument names.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "all":
        return list(FIGURES)
    if name not in FIGURES:
        raise ConfigError(f"unknown figure {name!r}; allowed: {', '.join(FIGURES)}, all")
    return [name]


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

    def plan(self, panels: Sequence[Panel]) -> list[Run]:
        """Every run of the panels once; all arms of a seed before the next seed."""
        found: dict[Path, tuple[int, Run]] = {}
        for panel in panels:
            for rank, seed in enumerate(panel.seeds[: self.seeds]):
                for label in panel.arms:
                    folder = self.runs / panel.recipe / f"{slug(label)}-{seed}"
                    arm = Arm(label, panel.recipe, ARMS[label])
                    found.setdefault(folder, (rank, Run(arm, seed, folder, self.changes)))
        return [run for _, run in sorted(found.values(), key=lambda entry: entry[0])]

    def file(self, recipe: str, label: str, seed: int) -> Path:
        """Where the record of a run is kept."""
        return self.results / "runs" / Path(recipe).name / f"{slug(label)}-{seed}.json"

    def records(self, panel: Panel) -> list[Record]:
        """What has been finished of a panel."""
        files = [self.file(panel.recipe, label, seed) for label in panel.arms for seed in panel.seeds[: self.seeds]]
        return [Record.load(file) for file in files if file.exists()]

    def finish(self, run: Run, threads: int) -> None:
        """Bring a run to its end, keep its record, and score a multi-reward policy by the verifier (Table 1)."""
        file = self.file(run.arm.recipe, run.arm.label, run.seed)
        if not file.exists():
            finish(run, threads)
            run.record().save(file)
        if run.arm.recipe == MULTI.recipe:
            self.score(f"scenes+{run.folder / 'lora'}", f"{slug(run.arm.label)}-{run.seed}", threads)

    def score(self, model: str, name: str, threads: int) -> None:
        """Evaluate a policy on the verifier, without and with guidance."""
        file = self.results / "table1" / f"{name}.json"
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        images = next((change.split("=")[1] for change in self.changes if "num_images" in change), "480")
        command = [sys.executable, "-m", "advantageflow", "evaluate", model, "--guidance", f"1,{GUIDANCE}"]
        command += ["--reward", "strict=scenes_strict", "--images", images, "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=child_environment(threads))
        if done.returncode:
            raise ConfigError(f"cannot evaluate {model}: {done.stderr.strip()}; to train it again, remove its record")


def run_all(study: Study, plan: Sequence[Run], *, jobs: int, threads: int) -> Iterator[str]:
    """Finish every run, `jobs` at once; yields a line about each that is done."""

    def one(run: Run) -> str:
        study.finish(run, threads)
        return f"{run.arm.recipe}: {run.arm.label}, seed {run.seed}"

    def base() -> str:
        study.score("scenes", "base", threads)
        return "Table 1: the base model"

    tasks = [partial(one, run) for run in plan]
    yield from in_parallel([*tasks, base] if any(run.arm.recipe == MULTI.recipe for run in plan) else tasks, jobs)


def table1(study: Study) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Strict scores of the multi-reward policies: guidance -> arm -> task or "overall" -> one per seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {"1": {}, f"{GUIDANCE:g}": {}}
    names = {"base": ["base"], **{arm: [f"{slug(arm)}-{seed}" for seed in MULTI.seeds] for arm in MULTI.arms}}
    for arm, stems in names.items():
        for stem in stems:
            file = study.results / "table1" / f"{stem}.json"
            if not file.exists():
                continue
            columns = json.loads(file.read_text())["models"]
            for column, scores in columns.items():
                guidance = re.search(r"guidance ([\d.]+)$", column)
                assert guidance is not None
                rows = found[guidance[1]].setdefault(arm, {})
                overall = scores["strict"]["tasks"]  # the mean over tasks, as GenEval's
                tasks = {task: mean for task, mean in scores["strict"].items() if task not in ("all", "tasks")}
                for task, mean in {**tasks, "overall": overall}.items():
                    rows.setdefault(task, []).append(mean["mean"])
    return found


def report(study: Study, names: Sequence[str]) -> list[str]:
    """Write each figure's numbers, tables and pictures from the records there are; returns the figures with any."""
    from advantageflow.claims import claims_table, table1_markdown
    from advantageflow.report.comparison import draw_figure, draw_rates, draw_stability, table

    written = []
    for name in names:
        found = {panel.name: _analyse(study, panel) for panel in FIGURES[name]}
        finished = {panel: result for panel, result in found.items() if result is not None}
        if not finished:
            continue
        written.append(name)
        write_atomic(study.results / f"{name}.json", json.dumps(finished, indent=1) + "\n")
        titles = {panel.name: panel.title for panel in FIGURES[name]}
        text = "\n".join(f"### {titles[panel]}\n\n{table(result)}" for panel, result in finished.items())
        if name == "table1":
            text = table1_markdown(study)
        write_atomic(study.results / f"{name}.md", text)
        shown = {titles[panel]: result for panel, result in finished.items()}
        if name == "search":
            draw_rates(finished["search"], SEARCHED_RATES, study.results / name)
        elif name != "table1":
            draw_figure(shown, "images", study.results / name)
        if name == "fig3b":
            shown_arms = (AF, gamma_arm(0), gamma_arm(0.2))
            of_gamma = [record for record in study.records(FIGURES[name][0]) if record.label in shown_arms]
            draw_stability(of_gamma, study.results / "stability")
    write_atomic(study.results / "claims.md", claims_table(study))
    return written


def _analyse(study: Study, panel: Panel) -> dict[str, Any] | None:
    """None where the baseline, or all but it, is missing."""
    records = study.records(panel)
    labels = {record.label for record in records if not record.diverged}
    if panel.baseline not in labels or len(labels) < 2:
        return None
    return analyse([record for record in records if record.label in labels], panel.baseline, panel.score)


def best_rates(study: Study) -> Mapping[str, float]:
    """Each method's searched learning rate with the highest last held-out score."""
    scores = {record.label: record.after[SEARCH.score] for record in study.records(SEARCH) if not record.diverged}
    return {
        method: max(SEARCHED_RATES[method], key=lambda rate: scores.get(_searched(method, rate), float("-inf")))
        for method in METHODS
    }
