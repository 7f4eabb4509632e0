"""What the pages say can be followed: links lead somewhere, commands are accepted, cheap ones run, Python compiles."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
from pathlib import Path

import pytest
import typer
from command_line import command_line
from documentation import PAGES, ROOT, Command, anchors, blocks, commands, links
from test_cli import SMALL
from typer.main import get_command

import advantageflow
from advantageflow.cli import app
from advantageflow.config import load_config
from advantageflow.methods import find_method
from advantageflow.paper.experiments import figures
from advantageflow.rewards import check_reward, is_address
from advantageflow.settings import about, settings
from advantageflow.studies.compare import parse_arms

COMMANDS = sorted({command for page in PAGES for command in commands(page)}, key=str)
OURS = [command for command in COMMANDS if command.words[0] == "advantageflow"]
STANDS_FOR_SOMETHING = re.compile(r"\b[A-Z]{2,}\b|…|\.\.\.|^\[|\]$")  # RECIPE, KEY=VALUE, [OPTIONS]
LOOKS = ("recipes", "methods", "--help", "--version", "--plan", "--settings")  # which cost next to nothing
WORKS = ("sample", "evaluate", "export", "push", "report")  # on a run that is there
SMALLER = {"sample": ("--images", 1, "--steps", 2), "evaluate": ("--images", 2, "--steps", 2)}


def identify(value: object) -> str:
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else str(value)[:100]


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_lead_somewhere(page):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: there is no {file}"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(target), f"{link}: no heading of {file} is called so"


def written(command: Command) -> list[str]:
    """Its words after "advantageflow"; of those that stand for something, what could."""
    return [re.sub(r"^(RECIPE|\[RECIPE\])$", "scenes", word) for word in command.words[1:]]


def stands_for_something(word: str) -> bool:
    return bool(STANDS_FOR_SOMETHING.search(word))


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.words[0] == "make"], ids=identify)
def test_make_has_what_is_shown(command):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in command.words[1:] if "=" not in word} <= set(targets)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.words[0] == "pip"], ids=identify)
def test_extras_that_are_installed_are_there(command):
    extras = re.search(r"optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    for word in command.words[1:]:
        for named in re.findall(r"^(?:\.|advantageflow)\[([\w,]+)\]", word):
            assert set(named.split(",")) <= set(re.findall(r"^(\w+) = ", extras, re.MULTILINE))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, where a user has the files that pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def lay_out(words: list[str], folder: Path) -> None:
    """Make the recipes and pictures that a command names, but where it names another folder than the current one."""
    for file in re.findall(r"(?<![\w./~-])[\w-][\w./-]*\.(?:yaml|yml|png|jpg)\b", "\n".join(words)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("extends: scenes\n")


@pytest.mark.parametrize("command", OURS, ids=identify)
def test_a_command_that_is_shown_is_one(command, folder):
    words, group = written(command), get_command(app)
    lay_out(words, folder)
    name = "advantageflow"
    while words and words[0] in getattr(group, "commands", {}):
        group, name = group.commands[words[0]], words.pop(0)
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    shown = {word.strip("[]").partition("=")[0] for word in words if word.strip("[").startswith("--")}
    assert shown <= known, f"{name} has no {shown - known}"
    in_part = command.told and any(map(stands_for_something, words))  # and so is what its arguments would be
    if in_part or "--help" in words or hasattr(group, "commands"):
        assert not hasattr(group, "commands") or not words or words[0].startswith("--"), f"{words[0]} is no command"
        return
    try:
        with group.make_context(name, list(words)) as context:  # raises where a value is not allowed
            check(name, context.params)
    except typer.BadParameter as error:
        if not (command.told and type(error).__name__ == "MissingParameter"):  # in a sentence arguments are left out
            raise


def check(name: str, given: dict) -> None:
    """What is named exists: recipes, settings, methods, rewards, figures."""
    changes = [change for change in given.get("changes") or () if not stands_for_something(change)]
    recipe = given.get("recipe")
    if name in ("train", "bench", "compare") and not given.get("resume") and not given.get("settings"):
        recipe, changes = ("scenes", [recipe, *changes]) if recipe and "=" in recipe else (recipe or "scenes", changes)
        load_config(recipe, changes)
        for arm in parse_arms(given.get("vary") or (), recipe) if name == "compare" else ():
            Path(arm.recipe).exists() or load_config(arm.recipe, [*changes, *arm.changes])
    if name == "reproduce":
        figures(given["figure"])
    if name == "methods" and given["name"]:
        find_method(given["name"])
    rewards = given.get("reward") or given.get("names") or ()
    for reward in [rewards] if isinstance(rewards, str) else rewards:
        if not (".py:" in reward or is_address(reward)):
            check_reward(reward.rpartition("=")[2])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smallest run of the recipe scenes."""
    folder = tmp_path_factory.mktemp("documented")
    code, _, error = command_line("train", *SMALL, "run.iterations=1", "--output", folder / "run")
    assert code == 0, error
    return folder / "run"


def cheap(command: Command) -> bool:
    words = command.words[1:]
    if command.needs or (any(map(stands_for_something, words)) and words[0] != "push"):
        return False
    if words[0] == "push":
        return "--dry-run" in words
    return bool({*words[:1], *words} & {*LOOKS}) or words[0] in WORKS or words[:2] == ("rewards", "list")


def alike(command: Command) -> str:
    """What makes a command another one: not its run, its prompt, or a number."""
    return re.sub(r"runs/[\w-]+|\d+|'[^']*'", "", str(command))


RUN = list({alike(each): each for each in OURS if len(each.words) > 1 and cheap(each)}.values())


@pytest.mark.parametrize("command", RUN, ids=identify)
def test_a_cheap_command_that_is_shown_runs(command, folder, run):
    words = written(command)
    lay_out(words, folder)
    for name in set(re.findall(r"runs/[\w-]+", " ".join(words))):
        (folder / "runs").mkdir(exist_ok=True)
        os.symlink(run, folder / name)
    code, out, error = command_line(*words, *SMALLER.get(words[0], ()))
    assert code == 0, error
    assert out or error


def test_enough_is_run():
    assert {"train", "recipes", "methods", *WORKS} <= {command.words[1] for command in RUN}


PYTHON = [(page, block.text) for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=identify)
def test_python_compiles_and_names_what_there_is(page, text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "advantageflow":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if getattr(node.func.value, "id", "") in ("af", "advantageflow"):
                called = getattr(advantageflow, node.func.attr)
                inspect.signature(called).bind_partial(**{key.arg: None for key in node.keywords if key.arg})
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("af", "advantageflow"):
            assert hasattr(advantageflow, node.attr)


NAMED = re.compile(rf"`((?:{'|'.join(filter(None, about()))})\.(?!py|yaml|txt)\w+)(?:=[^`]*)?`")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=identify)
def test_settings_that_are_named_exist(page):
    keys = {setting.key for setting in settings()}
    named = {key for key in NAMED.findall(page.read_text(encoding="utf-8")) if not key.startswith("objective.")}
    assert named <= keys


def every_command(group, name=""):
    for inner, command in group.commands.items():
        yield from (
            every_command(command, f"{name}{inner} ") if hasattr(command, "commands") else [(name + inner, command)]
        )


def test_the_reference_has_every_option_and_every_setting(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    pages = importlib.import_module("reference").pages()
    sections = {section.partition("\n")[0]: section for section in pages["reference/commands.md"].split("\n## ")}
    for name, command in every_command(get_command(app)):
        rows = re.findall(r"^\| `(-[^`]*)`", sections[name], re.MULTILINE)
        written = {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", row)}
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert written == {option for option in known if option.startswith("-")} - {"--help"}, name
    assert {setting.key for setting in settings()} <= set(re.findall(r"`([\w.]+)`", pages["reference/settings.md"]))
