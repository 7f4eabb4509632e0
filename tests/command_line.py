"""The command line in this process."""

import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TextIO
from unittest import mock

import pytest

from advantageflow.cli import main


def command_line(*arguments: object) -> tuple[int, str, str]:
    """What `advantageflow ARGUMENTS` does: its exit code, stdout and stderr. What it does not explain is raised."""
    out, error = io.StringIO(), io.StringIO()
    given = mock.patch.object(sys, "argv", ["advantageflow", *map(str, arguments)])
    with given, redirect_stdout(out), redirect_stderr(error):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), error.getvalue()


def as_child(
    command: Sequence[str], env: Mapping[str, str], stdout: TextIO, stderr: TextIO
) -> subprocess.CompletedProcess[str]:
    """In place of `studies.children.run`: what a child would do."""
    code, out, error = command_line(*command[command.index("advantageflow") + 1 :])
    stdout.write(out + error)
    return subprocess.CompletedProcess(command, code)


@pytest.fixture
def runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a comparison in this process, which has imported what takes seconds, one after the other."""
    monkeypatch.setattr("advantageflow.studies.children.run", as_child)
    monkeypatch.setattr("advantageflow.studies.compare.in_parallel", lambda tasks, jobs: (task() for task in tasks))
