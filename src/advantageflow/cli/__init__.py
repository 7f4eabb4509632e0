"""The command line: parse, call, print. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import atexit
import gc
import io
import os
import re
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from advantageflow.cli.benchmark import bench
from advantageflow.cli.custom_code import refusable
from advantageflow.cli.doctor import doctor
from advantageflow.cli.exporting import export
from advantageflow.cli.failures import INTERRUPTED, Interruption, explain
from advantageflow.cli.listing import recipes
from advantageflow.cli.methods import methods
from advantageflow.cli.pretraining import app as pretrain_app
from advantageflow.cli.pushing import push
from advantageflow.cli.rewards import app as rewards_app
from advantageflow.cli.rewards import serve
from advantageflow.cli.sampling import evaluate, sample
from advantageflow.cli.studies import compare, report, reproduce
from advantageflow.cli.training import train
from advantageflow.cli.watching import watch
from advantageflow.errors import ConfigError
from advantageflow.ranks import check_single_process
from advantageflow.studies.children import end_with_parent

NOISY = r"(torch|diffusers|transformers|peft|huggingface_hub|accelerate|datasets|tokenizers|matplotlib)\b"


def main() -> None:
    """Run the command line; what the user or his machine can mend is one line on stderr, without a traceback."""
    _quiet()
    atexit.register(gc.freeze)  # Python would look for garbage among all modules, for a second, before it ends
    home = os.path.expanduser("~")  # a shell puts it at the start of a word alone
    sys.argv[1:] = [re.sub(r"(^|=|\+)~(?=/|$)", lambda found: found[1] + home, word) for word in sys.argv[1:]]
    try:
        _check_system()
        end_with_parent()
        code = app(prog_name="advantageflow", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            _leave(code)  # without waiting for rewards that are being computed
    except BrokenPipeError:  # whoever read our output has gone, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except BaseException as error:
        explained, several = explain(error), _shares_work()
        if explained is None and not several:
            raise
        message, code = explained or (traceback.format_exc(), 1)
        print(_whose() + message, file=sys.stderr)
        if explained is None:
            _tell_launcher(error)
    if _shares_work():
        _leave(code or 0)  # what still speaks with other processes would be taken down in disorder
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End the process now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _shares_work() -> bool:
    """Whether this is one of several processes, which have met."""
    distributed: Any = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_initialized())


def _whose() -> str:
    """Of several processes that share a command, all but the first say who they are."""
    number = os.environ.get("RANK", "0")
    return f"process {number}: " if number != "0" else ""


def _tell_launcher(error: BaseException) -> None:
    """Leave an error where torchrun looks for it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _check_system() -> None:
    if sys.platform == "win32":
        raise ConfigError("AdvantageFlow runs on Linux and macOS; on Windows use the Linux of WSL 2 (wsl --install)")


def _quiet() -> None:
    """Libraries speak of their own affairs; what matters in ours is an error or a line of ours."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if not sys.warnoptions:
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=kind, module=NOISY)
    if sys.stdout is None:  # it was closed, as by >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _show_version(wanted: bool) -> None:
    if wanted:
        from advantageflow import __version__

        print(f"advantageflow {__version__}")
        raise typer.Exit


SHARED = ("train", "evaluate", "sample")  # commands whose work several processes can share


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in SHARED:
        check_single_process(context.invoked_subcommand or "")


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interruption from error  # the parser makes of the other an exit code, and says nothing


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement learning for rectified-flow image generators, after https://arxiv.org/abs/2605.26013.\n\n"
    "First: advantageflow train, which improves the built-in model in minutes on a CPU and says what to do next.",
    epilog='Then: advantageflow sample "a red circle" --run runs/NAME · advantageflow train sd35m-pickscore --plan · '
    "advantageflow COMMAND --help · advantageflow doctor",
)
app.callback()(_options)
for command in (
    train,
    recipes,
    export,
    push,
    evaluate,
    sample,
    report,
    watch,
    compare,
    reproduce,
    bench,
    methods,
    serve,
    doctor,
):
    app.command()(refusable(command))
app.add_typer(rewards_app, name="rewards")
app.add_typer(pretrain_app, name="pretrain")
