"""The command line: parse, call, print. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from advantageflow.cli.exporting import export
from advantageflow.cli.pretraining import app as pretrain_app
from advantageflow.cli.rewards import app as rewards_app
from advantageflow.cli.rewards import serve
from advantageflow.cli.sampling import evaluate, sample
from advantageflow.cli.studies import compare, report, reproduce
from advantageflow.cli.training import train


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are about parts that are not used here
    try:
        app()
    except Exception as error:
        from advantageflow.errors import ConfigError, NonFiniteError

        if not isinstance(error, ConfigError | NonFiniteError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        from advantageflow import __version__

        print(f"advantageflow {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement learning for rectified-flow image generators.",
)
app.callback()(_options)
for command in (train, export, evaluate, sample, report, compare, reproduce, serve):
    app.command()(command)
app.add_typer(rewards_app, name="rewards")
app.add_typer(pretrain_app, name="pretrain")
