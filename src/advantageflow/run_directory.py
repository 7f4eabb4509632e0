"""The folder of one run: configuration, metrics, pictures, checkpoints, the exported adapter, and the summary.

config.yaml      every value, defaults included
environment.json versions, commit and machine
metrics.jsonl    one line per iteration
curve.png        reward and score against time
samples/         the same prompts and seeds through training: a labelled NNNNNN.png; NNNNNN.webp, the plain images from
                 left to right, at most 256 pixels high; NNNNNN.json, their prompts, tasks and scores
checkpoints/     what `--resume` continues from; the latest two are kept
lora/            the trained adapter, in diffusers' format
summary.json     held-out scores before and after
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image
from torch import Tensor

from advantageflow.checkpoint import load_state, save_state, write_atomic
from advantageflow.config import Config, ConfigError, check_config, dump_config
from advantageflow.environment import environment
from advantageflow.pictures import to_pil

if TYPE_CHECKING:
    from advantageflow.evaluation import Evaluation

KEPT_CHECKPOINTS = 2
STRIP_HEIGHT = 256  # pixels
LOSSLESS_HEIGHT = 128  # pixels; small images stay exact


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.lora = path / "lora"
        self.curve = path / "curve.png"

    @classmethod
    def create(cls, path: Path, config: Config) -> RunDirectory:
        """A new run.

        Raises:
            ConfigError: the folder already holds a run, or anything else.
        """
        if (path / "config.yaml").exists():
            raise ConfigError(
                f"{path} already holds a run; continue it with --resume {path}, or choose another --output"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not an empty folder; choose another --output")
        run = cls(path)
        run.samples.mkdir(parents=True, exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        write_atomic(path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        write_atomic(path / "config.yaml", dump_config(config))
        return run

    @classmethod
    def open(cls, path: Path) -> tuple[RunDirectory, Config]:
        """An existing run and its configuration.

        Raises:
            ConfigError: the folder holds no run.
        """
        file = path / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"{path} holds no run: there is no {file}; --resume takes a folder that train wrote")
        run = cls(path)
        run.samples.mkdir(exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        return run, check_config(yaml.safe_load(file.read_text()))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All complete rows; a last line that was cut off by a kill is not one."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def keep_metrics(self, iterations: int) -> None:
        """Drop rows after the first `iterations`: a resumed run writes them again."""
        rows = [row for row in self.metrics() if row["iteration"] < iterations]
        write_atomic(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))

    def write_samples(self, iteration: int, shown: Evaluation) -> None:
        """What the report shows of them; the JSON comes last, so where it is, the pictures are whole."""
        file = self.samples / f"{iteration:06d}"
        strip = _strip(shown.images)
        strip.save(file.with_suffix(".webp"), lossless=strip.height <= LOSSLESS_HEIGHT, quality=90)
        entries = [
            {
                "prompt": prompt,
                "task": task,
                "scores": {label: values[i].item() for label, values in shown.by_image.items()},
            }
            for i, (prompt, task) in enumerate(zip(shown.prompts, shown.prompt_tasks, strict=True))
        ]
        write_atomic(file.with_suffix(".json"), json.dumps(entries, indent=1) + "\n")

    def save_checkpoint(
        self, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], record: dict[str, Any]
    ) -> None:
        save_state(self.checkpoints / f"{iteration:06d}", tensors, record)
        for old in self._saved()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def latest_checkpoint(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        saved = self._saved()
        return load_state(saved[-1]) if saved else None

    def _saved(self) -> list[Path]:
        return sorted(path for path in self.checkpoints.iterdir() if path.is_dir() and not path.name.startswith("."))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomic(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def _strip(images: Tensor) -> Image.Image:
    """Images in [0, 1], float32 [batch, 3, height, width], side by side."""
    pictures = to_pil(images)
    height = min(pictures[0].height, STRIP_HEIGHT)
    width = round(pictures[0].width * height / pictures[0].height)
    strip = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        strip.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (i * width, 0))
    return strip
