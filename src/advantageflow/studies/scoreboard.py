"""Several models on the same prompts and noise, side by side: `advantageflow evaluate`.

Scores are written down image by image, so a stopped evaluation goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from advantageflow.config import ConfigError
from advantageflow.evaluation import evaluate
from advantageflow.fingerprint import of_file, of_value
from advantageflow.hub import commit_of_hub
from advantageflow.prompts import PromptSet
from advantageflow.rewards import BUILT_IN, Reward
from advantageflow.rewards.own import file_of, is_address
from advantageflow.run.changes import differing
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.grids import labelled_grid
from advantageflow.run.stored import DamagedError, read_object, read_rows
from advantageflow.statistics import Interval, mean_interval, mean_of_means, paired_difference
from advantageflow.world import World

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

BLOCK = 64  # images of each process between two writes
GRID_IMAGES = 24
Row = dict[str, Any]  # {"index", "prompt", "task", "scores": {label: value}}


def score_images(
    model: FlowModel,
    transformer: nn.Module,
    prompts: PromptSet,
    rewards: Mapping[str, Reward],
    *,
    num_images: int,
    file: Path | None = None,
    title: str = "",
    advance: Callable[[int], None] | None = None,
    world: World | None = None,
    **options: Any,
) -> list[Row]:
    """Score `num_images`, one row each; with a `file`, what it already holds is not drawn again.

    Args:
        file: a .jsonl file for the rows; the first GRID_IMAGES images go next to it as a .png under the `title`.
        world: the processes that share the work, of which the first alone has the file.
        options: see `evaluate`.
    """
    world = world or World()
    rows = world.share(partial(_stored, file, num_images))
    if advance:
        advance(len(rows))
    while len(rows) < num_images:
        count = min(BLOCK * world.size, num_images - len(rows))
        found = evaluate(
            model, transformer, prompts, rewards, num_images=count, first=len(rows), advance=advance,
            keep_images=not rows, world=world, **options,
        )  # fmt: skip
        new = [
            {
                "index": len(rows) + i,
                "prompt": found.prompts[i],
                "task": found.prompt_tasks[i],
                "scores": {label: values[i].item() for label, values in found.by_image.items()},
            }
            for i in range(count)
        ]
        if file is not None and not rows:
            labelled_grid(found, title, count=GRID_IMAGES).save(file.with_suffix(".png"))
        rows += new
        if file is not None:
            write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _stored(file: Path | None, num_images: int) -> list[Row]:
    """The rows of a file that is there already."""
    if file is None or not file.exists():
        return []
    rows = read_rows(file, {"index": int, "prompt": str, "task": str, "scores": dict})[:num_images]
    if [row["index"] for row in rows] != list(range(len(rows))):
        raise DamagedError(f"{file} is damaged: its images are not numbered from 0 on; remove it to score them again")
    return rows


def summarize(rows: list[Row]) -> dict[str, dict[str, Interval]]:
    """label -> {"all": mean, task: mean, ...}; "tasks" is the mean over tasks, GenEval's overall score."""
    table: dict[str, dict[str, Interval]] = {}
    for label in rows[0]["scores"]:
        values = [row["scores"][label] for row in rows]
        table[label] = {"all": mean_interval(values)}
        tasks: dict[str, list[float]] = {}
        for row in rows:
            task = row["task"] if row["task"] not in ("all", "tasks") else f"task {row['task']}"
            tasks.setdefault(task, []).append(row["scores"][label])
        if len(tasks) > 1:
            means = {task: mean_interval(found) for task, found in tasks.items()}
            table[label] |= {"tasks": mean_of_means(list(means.values())), **means}
    return table


def difference(rows: list[Row], others: list[Row], label: str) -> Interval:
    """Mean paired difference of a score, `rows` - `others`: image by image, on the same prompts and noise."""
    return paired_difference([row["scores"][label] for row in rows], [row["scores"][label] for row in others])


def table(columns: Mapping[str, list[Row]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all columns; from the second on with the paired difference to the first."""
    first = next(iter(columns.values()))
    tables = {name: summarize(rows) for name, rows in columns.items()}
    lines = []
    for label in tables[next(iter(columns))]:
        for part in tables[next(iter(columns))][label]:
            name = label if part == "all" else f"{label}, {'mean of tasks' if part == 'tasks' else part}"
            cells = [table[label][part].plus_minus() for table in tables.values()]
            lines.append([name, *cells])
        if len(columns) > 1:
            changes = ["", *(difference(rows, first, label).plus_minus() for rows in list(columns.values())[1:])]
            lines.append([f"{label}, paired difference to the first", *changes])
    return ["score", *columns], lines


def as_json(columns: Mapping[str, list[Row]]) -> dict[str, Any]:
    return {
        name: {
            label: {part: _as_json(mean) for part, mean in parts.items()} for label, parts in summarize(rows).items()
        }
        for name, rows in columns.items()
    }


def _as_json(mean: Interval) -> dict[str, float | None]:
    found = mean.plain()
    half = mean.half_width if found["low"] is not None else None
    return {"mean": mean.value, "low": found["low"], "high": found["high"], "half_width": half}


def reward_contents(named: Mapping[str, str], functions: Mapping[str, Reward]) -> dict[str, list[str | None]]:
    """Label -> what decides a reward's scores: its name, and its source file or what its server says of its version."""
    found: dict[str, list[str | None]] = {}
    for label, name in named.items():
        reward: Any = functions[label]
        version = None
        if name in BUILT_IN:
            commits = [commit_of_hub(repository, "config.json") for repository in BUILT_IN[name].weights]
            version = of_value(commits) if commits else None
        elif is_address(name):
            version = reward.version()
        else:
            source = file_of(name)
            version = of_file(source) if source else None
        found[label] = [name, version]
    return found


def keep_for(file: Path, decided: Mapping[str, Any], prompts: PromptSet, say: Callable[[str], None]) -> None:
    """Keep the stored rows of `file` only if all that decides them is what it was; else they are set aside, and said.

    Args:
        decided: parts -> JSON-able content; prompts and our own code are added.
    """
    parts = {**decided, "prompts": [prompts.texts, prompts.tasks, prompts.metadata], "code": own_code()}
    now = {name: of_value(value) for name, value in parts.items()}
    key = file.with_suffix(".key.json")
    if file.exists():
        then = read_object(key) if key.exists() else {}
        changed = sorted(name for name in now if then.get(name) != now[name])
        if not changed:
            say(f"{file.name}: what it holds is reused")
            return
        aside = file.with_suffix(".old.jsonl")
        file.replace(aside)
        reason = f"{', '.join(changed)} changed since" if then else "it does not say what it was made from"
        say(f"{file.name}: {reason}; it is kept as {aside.name}, and made again")
    write_atomic(key, json.dumps(now, indent=2) + "\n")


@cache
def own_code() -> str:
    """A fingerprint of this package's source."""
    here = Path(__file__).parents[1]
    return of_value({file.relative_to(here).as_posix(): of_file(file) for file in sorted(here.rglob("*.py"))})


def open_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """A folder for these settings: new, or one that was begun with the same.

    Raises:
        ConfigError: it was begun with others.
    """
    file, now = folder / "settings.json", json.loads(json.dumps(settings))
    then = read_object(file) if file.exists() else now
    if then != now:
        told = differing(then, now) or file
        raise ConfigError(f"{folder} holds an evaluation with other settings ({told}); choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(now, indent=2, sort_keys=True) + "\n")
    return folder
