"""What is kept of a finished run, in one JSON file: its scores, metrics by iteration, and what it was computed with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.directory import RunDirectory
from advantageflow.run.history import history
from advantageflow.run.pace import TRAINING
from advantageflow.run.stored import DamagedError, read_object

KEPT_PREFIXES = ("reward/", "loss", "distance/", "seconds/", "grad_norm", "diversity")
KEYS: dict[str, type | tuple[type, ...]] = {
    "label": str,
    "seed": int,
    "config": dict,
    "diverged": bool,
    "evaluations": list,
    "metrics": dict,
    "environment": dict,
}
AXES = {"seconds": "training time (s)", "images": "images generated", "steps": "optimizer steps"}
SIGNS = {"positive": "A > 0", "negative": "A < 0"}  # of advantages, by which losses are split


@dataclass(frozen=True)
class Record:
    """One run.

    Args:
        label: of its arm.
        config: every setting, as in the run's config.yaml.
        evaluations: held-out scores, each with the iterations before it, from 0 to the last; where the run diverged,
            to the last that was made.
        metrics: name -> value of each iteration; None where there was nothing to average.
        peak_memory: bytes; None in runs that did not record it.
    """

    label: str
    seed: int
    config: dict[str, Any]
    diverged: bool
    evaluations: list[tuple[int, dict[str, Any]]]
    metrics: dict[str, list[float | None]]
    peak_memory: int | None
    environment: dict[str, Any]

    @property
    def before(self) -> dict[str, Any]:
        return self.evaluations[0][1]

    @property
    def after(self) -> dict[str, Any]:
        return self.evaluations[-1][1]

    @property
    def iterations(self) -> int:
        return len(self.metrics["reward/mean"])

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The GPUs that its machine had: seconds and bytes of other ones are not to be compared with its own."""
        return tuple(self.environment.get("gpus") or ())

    def curve(self, score: str, axis: str) -> tuple[list[float], list[float]]:
        """A held-out score against "seconds" of training, "images" generated, or optimizer "steps"."""
        rollout = self.config["rollout"]
        per_iteration = {
            "images": rollout["prompts_per_iteration"] * rollout["images_per_prompt"],
            "steps": self.config["learn"]["optimizer_steps"],
        }
        seconds = [0.0, *(value or 0.0 for value in self.metrics["seconds/training"])]
        places = [
            seconds[done] if axis == "seconds" else float(done * per_iteration[axis]) for done, _ in self.evaluations
        ]
        return places, [scores[score] for _, scores in self.evaluations]

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in _rounded(asdict(self)).items())
        write_atomic(file, "{\n" + lines + "\n}\n")

    @classmethod
    def load(cls, file: Path) -> Record:
        """Read what `save` wrote.

        Raises:
            DamagedError: the file is missing or holds something else.
        """
        content = read_object(file, KEYS)
        try:
            evaluations = [(int(done), dict(scores)) for done, scores in content["evaluations"]]
        except (TypeError, ValueError):
            raise DamagedError(f"{file} is damaged: its evaluations are not pairs of iterations and scores") from None
        known = {key: content[key] for key in KEYS}
        return cls(**{**known, "evaluations": evaluations, "peak_memory": content.get("peak_memory")})


def read_run(folder: Path, label: str, seed: int, diverged: bool = False) -> Record:
    """The record of a run from its folder.

    Raises:
        DamagedError: a file of the run is missing or damaged; the message names it.
    """
    directory = RunDirectory(folder)
    config, rows = directory.config().model_dump(mode="json"), directory.metrics()
    summary = None if diverged else directory.summary()
    if summary is None and not diverged:
        raise DamagedError(f"{folder / 'summary.json'} is missing")
    points = history(rows, summary and summary["before"], summary)
    names = [name for name in rows[0] if name.startswith(KEPT_PREFIXES)] if rows else []
    return Record(
        label=label,
        seed=seed,
        config=config,
        diverged=diverged,
        evaluations=[(point.iteration, point.scores) for point in points],
        metrics={name: [row[name] for row in rows] for name in names},
        peak_memory=summary.get("peak_memory") if summary else None,
        # a command has folders of the machine that it was typed on, which is nothing for a record that is shared
        environment={key: value for key, value in directory.environment().items() if key != "command"},
    )


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: more than a score or a loss means."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


def cost(records: Sequence[Record]) -> dict[str, float | None]:
    """Of runs on machines of one kind, on average: seconds of an iteration and of its stages, and the most bytes held.

    None where there is no such run, or none recorded it.
    """
    if not records:
        return dict.fromkeys((*TRAINING, "iteration", "peak_memory"))
    seconds = {
        stage: fmean(fmean(value or 0.0 for value in record.metrics[f"seconds/{stage}"]) for record in records)
        for stage in TRAINING
    }
    held = max(record.peak_memory or 0 for record in records)
    return {**seconds, "iteration": sum(seconds.values()), "peak_memory": held or None}
