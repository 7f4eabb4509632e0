"""The files and commands that docs/processes.md tells a user to copy."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from advantageflow.cli import app
from advantageflow.config import load_config

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "processes.md").read_text()
FILES = sorted((ROOT / "examples" / "launch").iterdir())
LAUNCHERS = {"torchrun": get_args_parser(), "accelerate": launch_command_parser()}


def commands(text):
    """The words of each line that starts a run, as a shell gives them; variables have a number for a value."""
    for line in re.findall(
        r"^ *((?:\w+=\S+ )?(?:exec |srun |torchrun |accelerate |advantageflow ).*)$", text, re.MULTILINE
    ):
        words = shlex.split(re.sub(r"\$\w+", "8", line))
        yield [word for word in words if word != "exec" and not re.match(r"\w+=[^=]", word)]


IN_PAGE = "\n".join(re.findall(r"```(?:bash|yaml)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = sorted({tuple(words) for words in commands(IN_PAGE)})


def test_every_way_to_start_is_shown():
    assert {words[0] for words in COMMANDS} == {"advantageflow", "torchrun", "accelerate", "srun"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_that_is_shown_is_one(words):
    launcher, own = words[0], [*words[words.index("advantageflow") + 1 :]]
    if launcher in LAUNCHERS:
        options = [*words[1 + (launcher == "accelerate") : words.index("advantageflow") + 1]]
        given = LAUNCHERS[launcher].parse_args(options)
        assert given.module
        assert given.training_script == "advantageflow"
    command = typer.main.get_command(app).commands[own[0]]
    with command.make_context(own[0], own[1:]) as context:  # raises where an option does not exist
        if context.params["recipe"]:
            load_config(context.params["recipe"])
        assert bool(context.params["recipe"]) != bool(context.params["resume"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_that_is_shown_is_the_one_that_can_be_copied(file):
    text = file.read_text()
    assert f"\n{text}```" in PAGE
    assert f"](../examples/launch/{file.name})" in PAGE
    assert len([*commands(text)]) == 2  # a new run, and one that goes on
    if file.suffix == ".yaml":
        content = yaml.safe_load(text)
        assert content["name"] if "name" in content else content["kind"] == "TrainJob"
        script = content["run"] if "run" in content else content["spec"]["trainer"]["command"][2]
    else:
        script = text
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_the_signals_of_torchrun_can_be_chosen():
    signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    assert f"torchrun --signals-to-handle {signals}" in PAGE
    options = LAUNCHERS["torchrun"].format_help()
    if "--signals-to-handle" not in options:
        pytest.skip("a PyTorch without it")
    assert LAUNCHERS["torchrun"].parse_args(["--signals-to-handle", signals, "x"]).signals_to_handle == signals
