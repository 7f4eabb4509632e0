"""MLflow, of version 3; `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` decide.

The server gives a run its id; a run that goes on is found by a tag that holds ours.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from PIL import Image

from advantageflow.trackers.base import PROJECT, Opening, Tracker

TAG = "advantageflow.id"
ALWAYS = "reward/mean"  # of every step
BATCH, LONGEST = 100, 500  # parameters in a call, and their characters, that every server takes


class MLflow(Tracker):
    def __init__(self, opening: Opening) -> None:
        self._client = MlflowClient()
        self._id = self._found(opening).info.run_id
        history = self._client.get_metric_history(self._id, ALWAYS)
        self.last = max((metric.step for metric in history), default=0)
        self._client.log_text(self._id, opening.yaml, "config.yaml")
        self.place = f"run {self._id}"

    def _found(self, opening: Opening) -> Run:
        """The run, which is made where there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        for run in self._client.search_runs([number], f"tags.`{TAG}` = '{opening.id}'"):
            self._client.update_run(run.info.run_id, status="RUNNING")
            return run
        run = self._client.create_run(number, run_name=opening.name, tags={TAG: opening.id})
        # parameters cannot be changed later: what --resume changes is in config.yaml
        params = [Param(_key(key), str(value)[:LONGEST]) for key, value in opening.settings.items()]
        for first in range(0, len(params), BATCH):
            self._client.log_batch(run.info.run_id, params=params[first : first + BATCH])
        return run

    def picture(self, step: int, name: str, file: Path) -> None:
        with Image.open(file) as picture:
            self._client.log_image(self._id, picture, key=_key(name), step=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(_key(name), value, now, step) for name, value in values.items()])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _key(name: str) -> str:
    """A name of the characters that it takes."""
    return re.sub(r"[^\w./ -]", "_", name)
