"""What a user can look up without leaving the terminal: recipes, settings, and what a shell completes."""

import dataclasses
import json
import subprocess
import sys

import pytest
from command_line import command_line

from advantageflow.cli import main
from advantageflow.config import flatten, load_config
from advantageflow.objectives import all_methods
from advantageflow.reading import recipe_names
from advantageflow.settings import about, meanings, settings, typed


def test_every_setting_says_what_it_means_and_what_is_allowed():
    found = settings()
    plain = load_config("scenes").model_dump(mode="json")
    assert [setting.key for setting in found] == list(flatten(plain))
    assert [setting.key for setting in found if not (setting.meaning and setting.allowed)] == []
    assert {setting.section for setting in found} == set(about())
    assert all(about().values())


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method().name)
def test_every_setting_of_a_method_is_explained(method):
    assert set(meanings(method)) >= {field.name for field in dataclasses.fields(method)}


def test_every_value_that_is_shown_can_be_typed():
    """A recipe's settings as KEY=VALUE over another recipe with its method are the recipe."""
    for recipe in ("sd35m-ocr", "scenes-mix-grpo"):
        changes = [f"{setting.key}={typed(setting.value)}" for setting in settings(recipe)]
        assert load_config("words", changes) == load_config(recipe)


TOGETHER = (
    "objective.name",
    "rollout.solver",
    "model.path",
    "model.shard",
    "model.quantization",
)  # some are exclusive


@pytest.mark.parametrize("setting", [each for each in settings() if each.choices], ids=lambda setting: setting.key)
def test_every_choice_is_allowed(setting):
    for choice in setting.choices if setting.key not in TOGETHER else setting.choices[:1]:
        assert load_config("sd35m-ocr" if setting.key == "reward" else "scenes", [f"{setting.key}={choice}"])


def test_settings_are_listed_of_a_recipe_alone(tmp_path):
    for option in (["--resume", tmp_path], ["--plan"], ["--rehearse"], ["--output", tmp_path / "run"]):
        code, _, text = command_line("train", "--settings", *option)
        assert code == 2
        assert "give no --resume, --output, --plan or --rehearse" in text


def test_a_stdout_that_is_closed_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["advantageflow", "recipes"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def test_recipes_are_listed_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = command_line("recipes")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  ") and not line.startswith("    ")}
    assert listed == set(recipe_names())
    found = {recipe["name"]: recipe for recipe in json.loads(command_line("recipes", "--json")[1])}
    assert set(found) == set(recipe_names())
    assert found["sd35m-multi"] == {
        "name": "sd35m-multi",
        "model": "stabilityai/stable-diffusion-3.5-medium",
        "method": "advantageflow",
        "reward": "pickscore + hpsv2 + clipscore",
        "about": "Figures 3a and 4 and Table 1 of AdvantageFlow (arXiv 2605.26013): AdvantageFlow(1.1) on a sum of "
        "three rewards.",
    }
    assert all(len(recipe["about"]) > 20 for recipe in found.values())


def test_settings_of_a_section_of_a_recipe():
    code, text, _ = command_line("train", "scenes-mix-grpo", "objective.window=3", "objective", "--settings")
    assert code == 0
    assert "objective.window=3 " in text
    assert "a whole number at least 1; default 2" in text
    assert "its number of steps" in text
    assert "learn." not in text
    code, text, _ = command_line("train", "--settings", "learn.optimizer")
    assert "learn.optimizer=adamw  " in text
    assert "adamw, adamw_8bit" in text
    assert "learn.learning_rate" not in text
    assert command_line("train", "--settings")[1].count("\n") > 2 * len(settings())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lern"], "there is no section, setting or recipe 'lern' (did you mean 'learn'?); sections are model, "),
        (["learn", "run"], "--settings takes one recipe and one section"),
        (["scenes", "words"], "--settings takes one recipe and one section"),
        (["scenes", "seed=-1"], "seed is -1"),
    ],
)
def test_settings_that_are_not_there(words, told):
    code, _, error = command_line("train", *words, "--settings")
    assert (code, told in error) == (2, True), error


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("nope.yaml", "no such file: 'nope.yaml'; looked for in '{here}'"),
        ("sub/dir/x.yml", "no such file: 'sub/dir/x.yml'; there is no folder '{here}/sub/dir'"),
        ("scenes.yaml", "no such file: 'scenes.yaml'; looked for in '{here}'; the shipped recipe is 'scenes', without"),
        ("scenes-ntf", "unknown recipe 'scenes-ntf' (did you mean 'scenes-nft' or "),
        ("sd35", "(did you mean 'sd35m-clipscore' or "),
        ("mine", "the file here is 'mine.yaml', named in full; `advantageflow recipes` lists all"),
    ],
)
def test_a_recipe_that_is_not_there(recipe, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: scenes")
    code, _, error = command_line("train", recipe)
    assert (code, told.format(here=tmp_path) in error) == (2, True), error
    assert "there can be no recipe" not in error
    assert len(error) < 300


def completed(monkeypatch, *words):
    """What bash offers for the last of the words, which it has cut at =."""
    monkeypatch.setenv("_ADVANTAGEFLOW_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["advantageflow", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return command_line()[1].split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "sd35m-multi-"], ["sd35m-multi-best", "sd35m-multi-large", "sd35m-multi-large-best"]),
        (["compare", "paper/w"], ["paper/words"]),
        (["train", "scenes", "learn.opt"], ["learn.optimizer_steps=", "learn.optimizer="]),
        (["train", "scenes", "learn.learning"], ["learn.learning_rate=0.002"]),
        (["bench", "learn.learning"], ["learn.learning_rate=0.002"]),
        (["train", "scenes", "learn.optimizer", "="], ["adamw", "adamw_8bit"]),
        (["train", "scenes", "seed", "=", "1", "model.compile", "=", "t"], ["true"]),
        (["train", "scenes", "objective", "=", "adv"], ["advantageflow"]),
        (["train", "scenes-mix-grpo", "objective.schedule=f"], ["objective.schedule=frozen"]),
        (["train", "objective", "=", "nft", "objective.adv"], ["objective.advantage_clip=5.0"]),
        (["train", "scenes", "objective.name=mean-flow-nft", "objective.be"], ["objective.beta=0.1"]),
        (["train", "scenes", "objective=nothing", "objective.ref"], ["objective.reference_weight=0.001"]),
        (["train", "scenes", "nothing"], []),
    ],
)
def test_a_shell_completes(words, offered, monkeypatch):
    assert completed(monkeypatch, *words) == offered


def test_looking_up_needs_no_torch():
    code = (
        "import sys, os; from advantageflow.cli import main\n"
        "def run(*words):\n"
        "    sys.argv = ['advantageflow', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code\n"
        "run('recipes'); run('train', 'scenes-draft', '--settings')\n"
        "os.environ |= {'_ADVANTAGEFLOW_COMPLETE': 'complete_bash', 'COMP_WORDS': 'advantageflow train learn.',\n"
        "               'COMP_CWORD': '2'}\n"
        "run(); print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip().endswith("[]"), found.stdout[-200:] + found.stderr
    assert "learn.learning_rate=" in found.stdout
