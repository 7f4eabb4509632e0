"""Seconds and peak of memory by stage, on any device."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from rich.console import Console
from torch import nn

from advantageflow.config import Config
from advantageflow.environment import peak_memory, reset_peak_memory
from advantageflow.run.progress import Display


class Meter:
    """What each stage takes; there is one at a time.

    seconds, cpu_seconds: stage -> of all times that it was entered, by the clock and of this process's threads.
    peaks: stage -> the most bytes held meanwhile: of the GPU's tensors, or of this process in main memory. Where the
        system cannot begin a peak again, as on macOS, that is the most so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stage = device, ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = defaultdict(int)
        self._since, self._cpu_since = 0.0, 0.0
        self.enter("")

    def enter(self, stage: str) -> str:
        """Begin a stage, which ends the one before, whose name is returned."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what was asked for is done
        now, before = time.perf_counter(), self.stage
        if self._since:
            self.seconds[before] += now - self._since
            self.cpu_seconds[before] += time.process_time() - self._cpu_since
            self.peaks[before] = max(self.peaks[before], peak_memory(self.device))
        reset_peak_memory(self.device)
        self.stage, self._since, self._cpu_since = stage, time.perf_counter(), time.process_time()
        return before

    def watch_decoder(self, decoder: nn.Module) -> None:
        """Count its calls while images are drawn as a stage of their own."""
        outer: list[str] = []

        def begin(*call: Any) -> None:
            if self.stage == "sampling":
                outer.append(self.enter("decoding"))

        def end(*call: Any) -> None:
            if outer:
                self.enter(outer.pop())

        decoder.register_forward_pre_hook(begin)
        decoder.register_forward_hook(end)


class MeteredDisplay(Display):
    """A run's progress, whose stages are measured."""

    def __init__(self, console: Console, config: Config, meter: Meter) -> None:
        super().__init__(console, config)
        self._meter = meter

    def stage(self, name: str, total: int) -> None:
        self._meter.enter(name)
        super().stage(name, total)

    def stage_done(self, name: str, total: int, seconds: float) -> None:
        self._meter.enter("")
        super().stage_done(name, total, seconds)
