"""The folder of one run: configuration, metrics, pictures, checkpoints, the exported adapter, and the summary.

config.yaml      every value, defaults included
environment.json versions, commit, machine, device, threads and command
prompts.txt      how many prompts came from where, and the first two
changes.jsonl    what `--resume` changed, and in which iteration
metrics.jsonl    one line per iteration
tracking.json    the id under which trackers know the run, where there are any
curve.png        reward and score against time
samples/         the same prompts and seeds through training: NNNNNN/, each picture at its own size; NNNNNN.json, their
                 prompts, tasks and scores; NNNNNN.png, all of them labelled
checkpoints/     what `--resume` continues from; the newest, the best and the last before a collapse are kept
lora/            the trained adapter, in diffusers' format, as of the last evaluation; where all weights are trained,
                 transformer/ in its place
base_scores.json the base model's score of every held-out image
summary.json     held-out scores before and after
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from advantageflow.config import Config, ConfigError, RunSettings, check_config, dump_config
from advantageflow.custom_code import RefusedError
from advantageflow.environment import begun_with
from advantageflow.errors import to_type, writing
from advantageflow.places import check_folder
from advantageflow.run.card import write_card
from advantageflow.run.changes import EARLIER, evaluates_anew
from advantageflow.run.checkpoint import atomic_directory, save_state, tidy, write_atomic
from advantageflow.run.curves import draw_curve
from advantageflow.run.folder_lock import HOLDER, LOCK
from advantageflow.run.grids import before_and_after, labelled_grid
from advantageflow.run.keeping import best, kept, place, record_of, remove, saved, scores
from advantageflow.run.samples import sampled_iterations, write_samples
from advantageflow.run.stored import DamagedError, read_object, read_rows, read_text, read_yaml

if TYPE_CHECKING:
    from advantageflow.evaluation import Evaluation

NUMBER = (int, float)
ROW: dict[str, type | tuple[type, ...]] = {
    "iteration": int,
    "reward/mean": NUMBER,
    "seconds/training": NUMBER,
    "diversity": (*NUMBER, type(None)),
}
EVALUATED = ("evaluation", "difference")  # in rows of iterations after which there was one
EXPORTS = ("lora", "transformer")  # folders of trained weights, in a run and in each of its checkpoints


class RunDirectory:
    writes = True  # see `Bystander`

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.lora = path / "lora"
        self.curve = path / "curve.png"
        self.base_scores = path / "base_scores.json"

    @classmethod
    def create(cls, path: Path, config: Config) -> RunDirectory:
        """A new run.

        Raises:
            ConfigError: the folder already holds a run, or anything else.
        """
        cls.check_new(path)
        run = cls(path)
        run.samples.mkdir(parents=True, exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        begun = begun_with(config.model.device, config.run.threads)
        write_atomic(path / "environment.json", json.dumps(begun, indent=2) + "\n")
        run.write_config(config)
        return run

    @staticmethod
    def check_new(path: Path) -> None:
        """Check that a new run may be in a folder: it is empty, or its run came to no checkpoint.

        Raises:
            ConfigError: see `create`.
        """
        check_folder(path)
        if (path / "config.yaml").exists():
            if saved(path / "checkpoints") or (path / "summary.json").exists() or _size(path / "metrics.jsonl"):
                raise ConfigError(
                    f"{path} already holds a run; continue it with --resume {to_type(path)}, or choose another --output"
                )
        elif path.exists() and any(entry.name not in (LOCK, HOLDER) for entry in path.iterdir()):
            raise ConfigError(f"{path} is not an empty folder; choose another --output")

    @staticmethod
    def check_run(path: Path) -> None:
        """Check that a folder holds a run.

        Raises:
            ConfigError: it does not.
        """
        file = path / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"{path} holds no run: there is no {file}; --resume takes a folder that train wrote")

    @classmethod
    def open(cls, path: Path) -> tuple[RunDirectory, Config]:
        """An existing run and its configuration.

        Raises:
            ConfigError: the folder holds no run.
        """
        cls.check_run(path)
        run = cls(path)
        config = run.config()
        run.samples.mkdir(exist_ok=True)
        tidy(run.samples)
        run.checkpoints.mkdir(exist_ok=True)
        return run, config

    def config(self) -> Config:
        """The settings that are in effect.

        Raises:
            ConfigError: config.yaml is damaged; the message names it.
        """
        file = self.path / "config.yaml"
        try:
            settings = read_yaml(file)
            for key, value in EARLIER.items():
                section, _, name = key.partition(".")
                if isinstance(settings.get(section), dict):
                    settings[section].setdefault(name, value)
            return check_config(settings)
        except (DamagedError, RefusedError):
            raise
        except ConfigError as error:
            raise ConfigError(f"{file} is damaged, or of another version: {error}") from None

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Write a row down; it is on the disk when this returns."""
        with writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete rows; a last line that was cut off by a kill is not one.

        Held-out scores that were made in another way than the run's last ones, before a change, are left out.

        Raises:
            DamagedError: one is not a row, or not the next one.
        """
        if not self.metrics_file.exists():
            return []
        rows = read_rows(self.metrics_file, ROW)
        first = rows[0] if rows else {}
        always = {name for name in first if name not in EVALUATED and not name.startswith("loss/")}  # terms may change
        for number, row in enumerate(rows):
            where = f"{self.metrics_file} line {number + 1}"
            if row["iteration"] != number:
                raise DamagedError(f"{where} is of iteration {row['iteration']}, where {number} is expected")
            if missing := always - {*row}:
                raise DamagedError(f"{where} is damaged: {min(missing)!r} is missing")
            for name, value in row.items():
                if name == "evaluation":
                    check_scores(value, where)
                elif name == "difference":
                    check_difference(value, where)
                elif not isinstance(value, int | float | None):
                    raise DamagedError(f"{where} is damaged: {name!r} is of the type {type(value).__name__}")
        anew = [entry["iteration"] for entry in self.changes() if evaluates_anew(entry.get("settings", {}))]
        for row in rows[: max(anew, default=0)]:
            for name in EVALUATED:
                row.pop(name, None)
        return rows

    def _lines(self) -> list[str]:
        return read_text(self.metrics_file).split("\n")[:-1] if self.metrics_file.exists() else []

    def rows_mark(self) -> dict[str, Any]:
        """How many rows there are, and the SHA-256 of their text: what a checkpoint remembers of them."""
        return _mark(self._lines())

    def check_rows(self, mark: Mapping[str, Any]) -> None:
        """Check that the rows of a checkpoint are still there as they were.

        Raises:
            DamagedError: some are missing, were changed, or are there twice.
        """
        lines, count = self._lines(), mark["count"]
        if len(lines) < count:
            raise DamagedError(f"{self.metrics_file} has {len(lines)} rows, of {count} that the checkpoint counted")
        if "sha256" not in mark or _mark(lines[:count]) != mark:
            self.metrics()  # says which line, where that can be told
            if "sha256" in mark:
                raise DamagedError(f"the first {count} rows of {self.metrics_file} are not those of the checkpoint")

    def keep_metrics(self, count: int) -> None:
        """Drop rows after the first `count`: a resumed run writes them again."""
        write_atomic(self.metrics_file, "".join(line + "\n" for line in self._lines()[:count]))

    def write_samples(self, iteration: int, shown: Evaluation) -> None:
        """What was drawn after an iteration, see `samples`; the file that comes last says that all are there."""
        labelled_grid(shown).save(self.samples / f"{iteration:06d}.png")
        write_samples(self.samples, iteration, shown)

    def has_samples(self, iteration: int) -> bool:
        """Whether pictures of an iteration are there, all of them."""
        return iteration in sampled_iterations(self.samples)

    def write_before_after(self, before: Evaluation, after: Evaluation) -> None:
        """Pictures of the base model beside those of the trained one."""
        before_and_after(before, after).save(self.samples / "before_after.png")

    def draw_curve(self, ends: Mapping[str, Any]) -> None:
        """The run's curve up to now.

        Args:
            ends: scores "before" and "after", and "seconds" of training.
        """
        draw_curve(self.metrics(), ends, self.curve)

    def write_base_scores(self, scores: Mapping[str, Any]) -> None:
        """The base model's score of every held-out image, by label."""
        write_atomic(self.base_scores, json.dumps(scores) + "\n")

    def save_checkpoint(
        self,
        iteration: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        record: Mapping[str, Any],
        export: Callable[[Path], None] | None = None,
        *,
        settings: RunSettings,
        score: str,
        collapse: int | None = None,
    ) -> None:
        """Save one, and remove those that are not kept.

        Args:
            export: writes the trained weights as others read them into a folder that it is given.
            settings: how many are kept.
            score: label of the held-out score whose best is kept.
            collapse: see `keeping.kept`.
        """
        save_state(place(self.checkpoints, iteration), tensors, {**record, "rows": self.rows_mark()}, export)
        found = saved(self.checkpoints)
        for old in {*found} - kept(found, settings.keep, best(scores(self.checkpoints, score)), collapse):
            if old != iteration:
                remove(place(self.checkpoints, old))

    def latest_record(self) -> dict[str, Any]:
        """What the newest checkpoint says of itself, unchecked; empty where there is none, or it cannot be read."""
        found = saved(self.checkpoints)
        return record_of(self.checkpoints, found[-1]) if found else {}

    def before(self) -> dict[str, Any] | None:
        """The base model's held-out scores in a run that is not finished, from its last checkpoint; None before the
        run's first evaluation.

        Raises:
            ConfigError: there is none; or DamagedError, it is damaged.
        """
        iterations = saved(self.checkpoints)
        if not iterations:
            raise ConfigError(f"{self.path} has neither a summary nor a checkpoint; train it again")
        file = place(self.checkpoints, iterations[-1]) / "state.json"
        before: dict[str, Any] | None = read_object(file, {"before": (dict, type(None))})["before"]
        if before is not None:
            check_scores(before, f"{file}, before,")
        return before

    def export(self, iteration: int) -> None:
        """Put the trained weights of a checkpoint where a user finds them."""
        copy_export(place(self.checkpoints, iteration), {name: self.path / name for name in EXPORTS})

    def summary(self) -> dict[str, Any] | None:
        """Of a run that came to its end; None before.

        Raises:
            DamagedError: summary.json is damaged, or rows of metrics.jsonl are missing.
        """
        file = self.path / "summary.json"
        if not file.exists():
            return None
        summary = read_object(file, {"before": dict, "after": dict})
        check_scores(summary["before"], f"{file}, before,")
        check_scores(summary["after"], f"{file}, after,")
        rows, counted = len(self._lines()), summary.get("iterations")
        if counted is not None and counted != rows:
            raise DamagedError(
                f"{self.metrics_file} has {rows} rows, of {counted} iterations that {file} counts; put them back, "
                f"or remove {file.name} and go on from a checkpoint with --resume"
            )
        return summary

    def environment(self) -> dict[str, Any]:
        """What the run was started with; empty for runs of early versions."""
        file = self.path / "environment.json"
        return read_object(file) if file.exists() else {}

    def changes(self) -> list[dict[str, Any]]:
        """What was changed by continuing the run, with the "iteration" from which on it holds, in order.

        Raises:
            DamagedError: an entry is something else than parts with keys, each with two values.
        """
        file = self.path / "changes.jsonl"
        entries = read_rows(file, {"iteration": int}) if file.exists() else []
        for number, entry in enumerate(entries, 1):
            for part, found in entry.items():
                pairs = found.values() if isinstance(found, dict) else [found]
                if part != "iteration" and not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                    raise DamagedError(f"{file} line {number} is damaged: {part!r} does not tell values then and now")
        return entries

    def note_changes(self, iteration: int, change: Mapping[str, Any]) -> None:
        """Keep what is changed from an iteration on; what was changed later has been undone by going back there."""
        then = self.changes()
        now = [entry for entry in then if entry["iteration"] < iteration]
        now += [{"iteration": iteration, **change}] if change else []
        if now != then:
            write_atomic(self.path / "changes.jsonl", "".join(json.dumps(entry) + "\n" for entry in now))

    def write_config(self, config: Config) -> None:
        write_atomic(self.path / "config.yaml", dump_config(config))

    def unfinish(self) -> None:
        """A run that goes on has no summary."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_prompts(self, lines: list[str]) -> None:
        write_atomic(self.path / "prompts.txt", "".join(line + "\n" for line in lines))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomic(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        if (self.path / "lora").is_dir():
            write_card(self, self.path / "lora", summary)


def copy_export(source: Path, targets: Mapping[str, Path]) -> list[Path]:
    """Copy the trained weights of a checkpoint, each folder of them whole or not at all.

    Args:
        targets: name of the folder in the checkpoint -> where it goes.
    """
    done = []
    for name, target in targets.items():
        if (source / name).is_dir():
            with atomic_directory(target) as temporary:
                shutil.copytree(source / name, temporary, dirs_exist_ok=True)
            done.append(target)
    return done


def check_scores(value: Any, where: str) -> None:
    """Check that a value is held-out scores: label -> number, and "tasks" -> task -> number.

    Raises:
        DamagedError: it is not; the message starts with `where`.
    """
    if not isinstance(value, dict) or not isinstance(value.get("tasks"), dict):
        raise DamagedError(f"{where} is damaged: held-out scores are missing")
    for name, score in {**value, **value["tasks"]}.items():
        if not isinstance(score, int | float | dict) or isinstance(score, bool):
            raise DamagedError(f"{where} is damaged: the score {name!r} is of the type {type(score).__name__}")


def check_difference(value: Any, where: str) -> None:
    """Check that a value is differences of held-out scores to the base model's: label -> "value", "low", "high".

    Raises:
        DamagedError: it is not; the message starts with `where`.
    """
    ends = {"value": NUMBER, "low": (*NUMBER, type(None)), "high": (*NUMBER, type(None))}
    for name, found in value.items() if isinstance(value, dict) else [("all", value)]:
        if not isinstance(found, dict) or not all(isinstance(found.get(key, ""), kind) for key, kind in ends.items()):
            raise DamagedError(f"{where} is damaged: the difference of {name!r} has no value, low and high")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _mark(lines: list[str]) -> dict[str, Any]:
    text = "".join(line + "\n" for line in lines)
    return {"count": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}
