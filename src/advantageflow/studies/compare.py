"""Methods compared fairly: the same model, prompts, noise and evaluation for every arm and seed.

A comparison is a folder of runs, each trained in a process of its own and resumed where it was stopped. What is
reported is computed from their folders alone, so a comparison can be killed, started again and extended.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from advantageflow.config import Config, ConfigError, EvaluationSettings, load_config
from advantageflow.errors import NonFiniteError, shown
from advantageflow.evaluated import described
from advantageflow.methods import changes_of
from advantageflow.reading import parse_changes
from advantageflow.rewards import check_reward
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.collapse import lost_variety
from advantageflow.run.directory import RunDirectory
from advantageflow.run.pace import counted
from advantageflow.run.progress import change, number
from advantageflow.statistics import (
    bootstrap_mean,
    holm,
    paired_p_value,
    time_ratio,
)
from advantageflow.studies import children
from advantageflow.studies.comparison_settings import all_rewards, settle
from advantageflow.studies.processes import child_environment, in_parallel
from advantageflow.studies.record import AXES, SIGNS, Record, cost, read_run

DEFAULT_IMAGES = EvaluationSettings().num_images  # of records that do not say


@dataclass(frozen=True)
class Arm:
    """One column of a comparison: its label, its recipe, and the changes to it."""

    label: str
    recipe: str
    changes: tuple[str, ...] = ()


def parse_arms(varied: Sequence[str], recipe: str) -> list[Arm]:
    """Every combination of "key=value,value" choices, as changes to a recipe.

    An objective may carry the setting that its class calls `short`: advantageflow-1.1. The key "recipe" gives arms
    their own recipe.

    Raises:
        ConfigError: a choice is not of that form.
    """
    axes = []
    for choice in varied:
        key, separator, values = choice.partition("=")
        if not separator or not all(values.split(",")):
            raise ConfigError(
                f"cannot read --vary {shown(choice)}; write key=value,value, as in learn.learning_rate=0.001,0.002"
            )
        axes.append([(key, value) for value in values.split(",")])
    arms = []
    for chosen in itertools.product(*axes):
        label = ", ".join(value for _, value in chosen)
        own = [value for key, value in chosen if key == "recipe"]
        changes = [change for key, value in chosen if key != "recipe" for change in _changes(key, value)]
        arms.append(Arm(label, own[0] if own else recipe, tuple(changes)))
    if len({slug(arm.label) for arm in arms}) < len(arms):  # which is the name of a folder
        raise ConfigError(f"--vary names the same arm twice: {', '.join(arm.label for arm in arms)}")
    return arms


def _changes(key: str, value: str) -> tuple[str, ...]:
    return changes_of(value) if key == "objective" else (f"{key}={value}",)


def parse_budget(text: str, config: Config) -> tuple[str, ...]:
    """A budget as changes to a recipe: 10m, 600s or 1h of training; 60iterations; 5000images.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|iterations|images)", text)
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"cannot read --budget {shown(text)}; write 10m, 600s, 1h, 60iterations or 5000images")
    amount, unit = float(match[1]), match[2]
    if unit == "iterations":
        return (f"run.iterations={int(amount)}",)
    if unit == "images":
        per_iteration = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
        return (f"run.iterations={max(1, round(amount / per_iteration))}",)
    seconds = amount * {"s": 1, "m": 60, "h": 3600}[unit]
    return (f"run.max_seconds={seconds:g}", "run.iterations=1000000")


def slug(label: str) -> str:
    """An arm's label as a file name."""
    return re.sub(r"[^\w.-]+", "_", label).strip("_")


@dataclass(frozen=True)
class Run:
    """One arm with one seed, in its own folder."""

    arm: Arm
    seed: int
    folder: Path
    changes: tuple[str, ...] = ()  # beyond the arm's

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists() or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether it stopped since a loss, a gradient or a weight was not sound."""
        return self.beside(".diverged").exists()

    @property
    def stopped(self) -> str:
        """Where it diverged, and why: what the run itself said at its end."""
        why = self.beside(".diverged").read_text(encoding="utf-8").strip()  # early versions kept no reason
        return f"diverged after {counted(len(self.rows()))}" + (f": {why}" if why else "")

    def beside(self, ending: str) -> Path:
        """A file next to the folder."""
        return self.folder.with_name(self.folder.name + ending)

    def rows(self) -> list[dict[str, Any]]:
        """Metrics of the iterations so far."""
        return RunDirectory(self.folder).metrics()

    def record(self) -> Record:
        return read_run(self.folder, self.arm.label, self.seed, self.diverged)


def plan_runs(
    arms: Sequence[Arm],
    seeds: int,
    budget: str,
    extra: Sequence[str],
    output: Path,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """All runs of a comparison, seeds outermost, so that every arm has a result early; each recipe is checked.

    Args:
        say: is told which rewards evaluate arms that would differ in them, and that the code has changed.

    Raises:
        ConfigError: an arm's recipe is wrong or has changed, or the folder belongs to another comparison.
    """
    typed = [key for arm in arms for key in parse_changes([*extra, *arm.changes])]
    if "seed" in typed:
        raise ConfigError("every run of a comparison has a seed of its own, from 0; give their number with --seeds")
    changes = {arm: (*extra, *parse_budget(budget, load_config(arm.recipe, extra))) for arm in arms}
    configs = {arm.label: load_config(arm.recipe, [*arm.changes, *changes[arm]]) for arm in arms}
    for name in dict.fromkeys(name for config in configs.values() for name in config.reward_names):
        check_reward(name)  # which is refused here rather than by each run
    rewards = all_rewards(configs, any(key.startswith("evaluation.rewards") for key in typed))
    if rewards:
        say(f"every arm is evaluated by {described(rewards)}")
        scored = f"evaluation.rewards={json.dumps(rewards, ensure_ascii=False)}"
        changes = {arm: (*found, scored) for arm, found in changes.items()}
        configs = {arm.label: load_config(arm.recipe, [*arm.changes, *changes[arm]]) for arm in arms}
    falling = [
        label for label, config in configs.items() if config.run.max_seconds and config.learn.schedule != "constant"
    ]
    if falling:
        raise ConfigError(
            f"learn.schedule of {shown(falling[0])} falls over the iterations of a run, whose number a budget in time "
            "does not tell; give a budget in iterations or images, or set learn.schedule=constant"
        )
    asked = {"budget": budget, "changes": list(extra), "arms": [asdict(arm) for arm in arms]}
    for line in settle(output, configs, asked):
        say(line)
    return [
        Run(arm, seed, output / "runs" / f"{slug(arm.label)}-{seed}", changes[arm])
        for seed in range(seeds)
        for arm in arms
    ]


def finish(run: Run, threads: int, processes: int = 1) -> None:
    """Bring one run to its end, from wherever it is, in so many processes.

    Raises:
        ConfigError: training failed for another reason than a loss, gradient or weight that is not sound.
        StoppedError: a signal came before.
    """
    if run.finished:
        return
    arguments = ["--resume", str(run.folder)]
    if not (run.folder / "config.yaml").exists():
        given = [*run.arm.changes, *run.changes, f"seed={run.seed}"]
        if "run.threads" not in parse_changes(given):
            given.append(f"run.threads={threads}")
        arguments = [run.arm.recipe, *given, "--output", str(run.folder)]
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.beside(".log")
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "advantageflow", "train", *arguments]
        command += ["--processes", str(processes)] if processes > 1 else []
        code = children.run(command, child_environment(threads, processes), stdout=file, stderr=file).returncode
    if code == NonFiniteError.exit_code:
        write_atomic(run.beside(".diverged"), (last_error(log) or f"see {log}") + "\n")
    elif code != 0:
        told = last_error(log)
        raise ConfigError(f"the run {run.folder} failed with exit code {code}{f': {told}' if told else ''}; see {log}")


def last_error(log: Path) -> str | None:
    """The last sentence that a command ended with, as its log has it; None where it told none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else None


def finish_all(runs: Sequence[Run], *, jobs: int, threads: int, processes: int = 1) -> Iterator[Run]:
    """Bring all runs to their end, `jobs` at once, each in so many processes; yields each when it is there."""

    def one(run: Run) -> Run:
        finish(run, threads, processes)
        return run

    yield from in_parallel([partial(one, run) for run in runs], jobs)


def ended(run: Run, score: str) -> str:
    """A line about a run that came to its end."""
    named = f"{run.arm.label}, seed {run.seed}"
    summary = None if run.diverged else RunDirectory(run.folder).summary()
    if summary is None:
        return f"{named}: {run.stopped}"
    label = score if score in summary["after"] else next(iter(summary["after"]))
    found, difference = summary["after"][label], summary.get("difference", {}).get(label)  # early versions have none
    told = f" ({change(difference)})" if difference else ""
    return f"{named}: {counted(len(run.rows()))}, {label} {number(found)}{told}"


def collapsed(record: Record, score: str, spread: float = math.inf) -> bool:
    """The rule: it diverged, a prompt's images became alike, or its last held-out score fell by more than chance.

    Of a score in [0, 1] chance is at most the 95 % interval of a difference of two means over the held-out images:
    records hold no scores of single images. Of other scores it is `spread`.

    Args:
        spread: half of the 95 % interval of an arm's last scores over seeds; infinity where there is one seed.
    """
    if record.diverged or lost_variety(record.metrics["diversity"]):
        return True
    before, after = record.before[score], record.after[score]
    images = record.config.get("evaluation", {}).get("num_images", DEFAULT_IMAGES)
    if min(before, after) >= 0 and max(before, after) <= 1:
        spread = 1.96 * math.sqrt((before * (1 - before) + after * (1 - after)) / images)
    return bool(before - after > spread)


def _spread(records: Sequence[Record], score: str) -> float:
    """See `collapsed`."""
    last = [record.after[score] for record in records]
    return math.inf if len(last) < 2 else 1.96 * float(np.std(last, ddof=1))


def analyse(records: Sequence[Record], baseline: str, score: str | None = None) -> dict[str, Any]:
    """Everything that is reported, as plain data.

    Args:
        baseline: label of the arm whose best mean score sets the target of the time ratio.
        score: label of a held-out score; by default the first.

    Raises:
        ConfigError: there is no such arm or score, or no run of the baseline came to its end. Of other arms it is said
            under "left_out".
    """
    arms = list(dict.fromkeys(record.label for record in records))
    if baseline not in arms:
        raise ConfigError(f"--baseline is {shown(baseline)}; the arms are {', '.join(arms)}")
    kept = {arm: [record for record in records if record.label == arm and not record.diverged] for arm in arms}
    left_out = [arm for arm in arms if not kept[arm]]
    if baseline in left_out:
        raise ConfigError(f"no run of the baseline {baseline} came to its end; choose another one with --baseline")
    arms = [arm for arm in arms if kept[arm]]
    common = set.intersection(*(set(record.before) for arm in arms for record in kept[arm]))
    scores = [name for name in kept[arms[0]][0].before if name in common - {"tasks"}]
    score = score or scores[0]
    if score not in scores:
        raise ConfigError(f"--score is {shown(score)}; the runs have {', '.join(scores)}")
    paired = {arm: _pairs(kept[arm], kept[baseline]) for arm in arms}
    result: dict[str, Any] = {"score": score, "baseline": baseline, "left_out": left_out, "arms": {}}
    usual = Counter(record.accelerators for arm in arms for record in kept[arm]).most_common(1)[0][0]
    for arm in arms:
        found = kept[arm]
        everything = [record for record in records if record.label == arm]
        result["arms"][arm] = {
            "seeds": [record.seed for record in found],
            "before": found[0].before[score],
            "after": bootstrap_mean([record.after[score] for record in found]).plain(),
            "scores": {name: bootstrap_mean([record.after[name] for record in found]).plain() for name in scores},
            "tasks": {
                task: bootstrap_mean([record.after["tasks"][task] for record in found]).plain()
                for task in found[0].after["tasks"]
            },
            "curves": {axis: [record.curve(score, axis) for record in found] for axis in AXES},
            "time_ratio": {axis: _ratio(paired[arm], score, axis) for axis in AXES},
            "collapsed": [collapsed(record, score, _spread(found, score)) for record in everything],
            "diverged": sum(record.diverged for record in everything),
            "stability": _stability(found),
            "drift": {
                "to_reference": _known_mean(record.metrics["distance/to_reference"][-1] for record in found),
                "diversity_first": _known_mean(record.metrics["diversity"][0] for record in found),
                "diversity_last": _known_mean(record.metrics["diversity"][-1] for record in found),
            },
            "cost": cost([record for record in found if record.accelerators == usual]),
        }
    result["p_values"] = _tests({arm: pairs for arm, pairs in paired.items() if arm != baseline}, score)
    return result


def _ratio(pairs: Sequence[tuple[Record, Record]], score: str, axis: str) -> dict[str, float | None] | None:
    """See `time_ratio`; None of seconds where no pair was made on machines of one kind."""
    if axis == "seconds":
        pairs = [pair for pair in pairs if pair[0].accelerators == pair[1].accelerators]
    if not pairs:
        return None
    ours, theirs = ([pair[side].curve(score, axis) for pair in pairs] for side in (0, 1))
    return time_ratio(ours, theirs).plain()


def _stability(records: Sequence[Record]) -> dict[str, Any]:
    """Of the loss, the gradient's norm and the distance to the base model: their largest size, by the advantage's sign.

    None where no run recorded it. Under "all" it is over all samples.
    """

    def largest(name: str) -> float | None:
        found = [value for record in records for value in record.metrics.get(name, []) if value is not None]
        return max(map(abs, found), default=None)

    names = {"loss": "loss", "grad_norm": "grad_norm", "distance": "distance/to_reference"}
    return {
        sign: {key: largest(f"{name}/{sign}_advantage" if sign != "all" else name) for key, name in names.items()}
        for sign in ("all", *SIGNS)
    }


def _pairs(records: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Runs of equal seed."""
    by_seed = {record.seed: record for record in others}
    found = [(record, by_seed[record.seed]) for record in records if record.seed in by_seed]
    if not found:
        raise ConfigError(f"{records[0].label} and {others[0].label} have no finished seed in common")
    return found


def _tests(paired: Mapping[str, Sequence[tuple[Record, Record]]], score: str) -> dict[str, dict[str, float | None]]:
    """P-values of paired t-tests against the baseline, by arm, of the score and of every task.

    Holm-corrected for the number of arms; those of the tasks, a second family, for arms times tasks.
    """
    raw: dict[tuple[str, str], float | None] = {}
    for arm, pairs in paired.items():
        if len(pairs) < 2:
            continue
        ours, theirs = ([_flat(pair[side].after, score) for pair in pairs] for side in (0, 1))
        for name in ours[0]:
            raw[arm, name] = paired_p_value([one[name] for one in ours], [one[name] for one in theirs])
    of_score = {key: value for key, value in raw.items() if key[1] == score}
    of_tasks = {key: value for key, value in raw.items() if key[1] != score}
    result: dict[str, dict[str, float | None]] = {}
    for (arm, name), value in {**holm(of_score), **holm(of_tasks)}.items():
        result.setdefault(arm, {})[name] = value
    return result


def _flat(after: Mapping[str, Any], score: str) -> dict[str, float]:
    return {score: after[score], **after["tasks"]}


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
