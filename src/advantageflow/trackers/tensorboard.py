"""TensorBoard: event files in the run's folder, under `tensorboard/`.

A run that goes on appends a file that takes back the steps after its checkpoint, so they are not shown twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from advantageflow.errors import to_type
from advantageflow.trackers.base import Opening, Tracker


class TensorBoard(Tracker):
    def __init__(self, opening: Opening) -> None:
        folder = opening.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=opening.step + 1 if opening.step else None)
        self._writer.add_text("settings", "".join(f"    {line}\n" for line in opening.yaml.splitlines()), 0)
        self.place = f"tensorboard --logdir {to_type(folder)}"

    def picture(self, step: int, name: str, file: Path) -> None:
        with Image.open(file) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()
