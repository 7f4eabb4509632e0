"""Weights & Biases: `WANDB_MODE=offline`, `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_BASE_URL` and `WANDB_DIR` decide.

A step that it has already is refused by the client. What waits for the server is under `./wandb`, not in the run's
folder: it has links that lead out of there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from advantageflow.errors import ConfigError, to_type
from advantageflow.trackers.base import PROJECT, Opening, Tracker

# Bars are drawn on our console; the machine, the command line, code and commit are nobody's business unless asked for.
QUIET = {"console": "off", "silent": True, "disable_git": True, "disable_code": True, "x_disable_meta": True}
LONGEST = {"init_timeout": 30, "finish_timeout": 20}  # seconds, where this version knows them: it waits at exit, too


class WandB(Tracker):
    def __init__(self, opening: Opening) -> None:
        limits = {key: value for key, value in LONGEST.items() if key in wandb.Settings.model_fields}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=opening.id,
            name=opening.name,
            resume="allow",
            config=dict(opening.settings),
            settings=wandb.Settings(**QUIET, **limits),
        )
        known = self._run.starting_step - 1 if self._run.resumed else 0
        self.last = None if self._run.offline else known
        self.place = f"wandb sync {to_type(Path(self._run.dir).parent)}" if self._run.offline else str(self._run.url)

    @classmethod
    def check(cls) -> None:
        if wandb.setup().settings.mode not in ("online", "shared"):
            return
        try:
            known = wandb.login(prompt=False)
        except wandb.errors.AuthenticationError:  # there is a key; a server that is away now may come back
            return
        if not known:
            raise ConfigError(
                "run.trackers names wandb, but nobody is logged in there; type wandb login, set WANDB_API_KEY or "
                "WANDB_MODE=offline, or leave it out of run.trackers"
            )

    def picture(self, step: int, name: str, file: Path) -> None:
        self._run.log({name: wandb.Image(str(file))}, step=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step, commit=True)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
