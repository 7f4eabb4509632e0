"""Trackio: a database on this machine, or a Space; `TRACKIO_SPACE_ID`, `TRACKIO_SERVER_URL`, `TRACKIO_DIR` decide.

It finds a run that goes on by its name, so the name holds the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trackio

from advantageflow.trackers.base import PROJECT, Opening, Tracker


class Trackio(Tracker):
    def __init__(self, opening: Opening) -> None:
        self._run = trackio.init(
            project=PROJECT,
            name=f"{opening.name}-{opening.id}",
            resume="allow",
            config=dict(opening.settings),
            embed=False,
        )
        following = getattr(self._run, "_next_step", 0)  # the client keeps it to itself
        self.last = following - 1 if following else None
        self.place = f"trackio show --project {PROJECT}"

    def picture(self, step: int, name: str, file: Path) -> None:
        self._run.log({name: trackio.Image(file)}, step=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish()
