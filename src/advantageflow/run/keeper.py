"""What of a training run is saved, when, and how it is put back: weights, averages, optimizer, and gradient scale."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advantageflow.adapters import about
from advantageflow.config import Config
from advantageflow.errors import ConfigError
from advantageflow.models.base import FlowModel
from advantageflow.policy import Policy
from advantageflow.run.changes import as_read, changes_since, check_inputs, evaluates_anew, flat, told
from advantageflow.run.checkpoint import Tensors, load_optimizer_tensors, optimizer_tensors
from advantageflow.run.directory import RunDirectory
from advantageflow.run.resuming import resume
from advantageflow.world import World


@dataclass(frozen=True)
class Copy:
    """Weights of all roles and the optimizer's state, and that of the gradient scale."""

    tensors: Tensors
    scaler: dict[str, Any]


class Keeper:
    """Saves a run and puts it back.

    Args:
        say: tells the user a line.
        provenance: "inputs" and "environment" of this process, see `changes.check_inputs`.
        accept_changes: go on with other inputs than before.
        world: the processes of the run, the first of which reads for all.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        model: FlowModel,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        say: Callable[[str], None],
        provenance: Mapping[str, Mapping[str, Any]],
        accept_changes: bool,
        world: World,
    ) -> None:
        self.config, self.directory, self.model, self.say, self.world = config, directory, model, say, world
        self.policy, self.optimizer, self.scaler = policy, optimizer, scaler
        self.provenance, self.accept_changes = provenance, accept_changes
        self.saved: int | None = None  # after so many iterations
        self._saved_at = time.monotonic()

    def is_time(self, iteration: int) -> bool:
        """Whether a checkpoint is due after so many iterations, or by the clock."""
        settings = self.config.run
        minutes = (time.monotonic() - self._saved_at) / 60
        return iteration % settings.checkpoint_every == 0 or minutes >= settings.checkpoint_minutes

    def save(self, record: Mapping[str, Any], collapse: int | None) -> None:
        """Write a checkpoint, and remove those that are not kept.

        Args:
            record: the run's counters, with its "iteration".
            collapse: see `keeping.kept`.

        Raises:
            NonFiniteError: a weight or a state of the optimizer is NaN or infinite; nothing is written.
        """
        self.directory.save_checkpoint(
            record["iteration"],
            self._tensors(),
            {
                **record,
                "scaler": self.scaler.state_dict(),
                "settings": flat(self.config),
                "start": self._start(),
                **self.provenance,
            },
            self._export,
            settings=self.config.run,
            score=self.config.best_score,
            collapse=collapse,
        )
        self.saved = record["iteration"]
        self._saved_at = time.monotonic()

    def _tensors(self) -> Tensors:
        """The weights of all roles, and the optimizer's state."""
        return {**self.policy.state(), "optimizer": optimizer_tensors(self.optimizer)}

    def copy(self) -> Copy:
        """Of all that an optimizer step changes, on the CPU."""
        return Copy(
            {
                group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}
                for group, found in self._tensors().items()
            },
            self.scaler.state_dict(),
        )

    def put_back(self, then: Copy) -> None:
        """Undo the optimizer steps since a copy."""
        self.policy.load_state(then.tensors)
        load_optimizer_tensors(self.optimizer, then.tensors["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(then.scaler)

    def _export(self, folder: Path) -> None:
        """The weights that are evaluated, as diffusers reads them."""
        if self.policy.is_lora:
            self.model.save_lora(folder / "lora", self.policy.lora_state_dict("average"), about(self.config))
        else:
            with self.policy.acting_as("average") as transformer:
                transformer.save_pretrained(folder / "transformer")  # type: ignore[operator]

    def _start(self) -> str | None:
        """A fingerprint of the adapter that the run started from."""
        return self.model.start.fingerprint if self.model.start else None

    def resume(self) -> dict[str, Any] | None:
        """Put back the newest checkpoint that can be used, and return its record; None if nothing was saved yet.

        Raises:
            ConfigError: see `resuming.resume`, or the adapter that the run started from is another by now.
        """
        settings = flat(self.config)
        shapes = [parameter.shape for parameter in self.policy.parameters]
        found = self.world.share(lambda: resume(self.directory, settings, self.policy.state(), shapes))
        if found is None:
            self.directory.note_changes(0, {})
            return None
        if found.record.get("start") != self._start():
            raise ConfigError(
                f"the adapter model.lora={self.config.model.lora} is not the one that this run started from; put that "
                "one back, or start another run"
            )
        then = {**found.record, "settings": as_read(found.record.get("settings", {}), settings)}
        changes = changes_since(then, {"settings": settings, **self.provenance})
        if not self.accept_changes:
            check_inputs(found.record, self.provenance.get("inputs", {}))
        for line in found.said:
            self.say(line)
        for line in told(changes):
            self.say(line)
        self.directory.note_changes(found.record["iteration"], changes)
        self.directory.write_config(self.config)
        scaler = found.record.get("scaler") or {"scale": found.record.get("gradient_scale")}  # of early versions
        self.put_back(Copy(found.tensors, {**self.scaler.state_dict(), **scaler}))
        if evaluates_anew(changes.get("settings", {})):
            self.say("held-out scores are to be made in another way: the base model is evaluated again")
            found.record["before"] = found.record["evaluation"] = None
        return found.record
