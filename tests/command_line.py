"""The command line in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

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
