"""Processes that have imported what takes seconds: they are forked from one that did so once."""

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

IMPORTED = [
    "advantageflow.trainer",
    "advantageflow.building",
    "advantageflow.models.sd3",
    "advantageflow.rewards.scenes",
]


def warm() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "advantageflow.cli", "matplotlib.figure"])
    return context


def _run(words, environment, said):
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["advantageflow", *words]
    from advantageflow.cli import main

    main()


class Command:
    """`advantageflow WORDS` in a process of its own, which is asked as a `Popen` is."""

    def __init__(self, words, environment, said: Path, stderr=None):
        self.said, self.stderr = said, stderr
        self.process = warm().Process(target=_run, args=([*map(str, words)], dict(environment), said), daemon=True)
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        if self.returncode is not None and self.stderr is not None:
            self.stderr.write(self.said.read_bytes())
            self.stderr = None
        return self.returncode

    def communicate(self, timeout=120):
        self.process.join(timeout)
        return self.said.read_text()

    def kill(self):
        self.process.kill()


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """What `--processes` starts in this test is warm; the first one's words are in the first of these files."""
    files = [tmp_path / f"said-{rank}" for rank in range(3)]

    def start(command, environment, stdout=None, stderr=None):
        words = command[command.index("advantageflow") + 1 :]
        return Command(words, environment, files[int(environment["RANK"])], stderr)

    monkeypatch.setattr("advantageflow.launcher.start", start)
    return files
