"""Supported systems: text is UTF-8 under every locale, devices without float64 work, Windows is refused."""

import ast
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_cli import command
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import advantageflow
from advantageflow.cli import main
from advantageflow.config import check_config, load_config
from advantageflow.fits import Fits
from advantageflow.learning import FAMILIES, Scored
from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.objectives import names
from advantageflow.plan import print_plan
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream
from advantageflow.solvers import ODE_SOLVERS

SOURCES = sorted(Path(advantageflow.__file__).parent.rglob("*.py"))
NOT_TEXT = {"os", "Image", "RunDirectory"}  # whose `open` is of another kind


def leaves_it_to_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text, of a file or a child process, without saying in which encoding."""
    keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if isinstance(call.func, ast.Attribute):
        name, mode = call.func.attr, call.args[:1]
        if getattr(call.func.value, "id", "") in NOT_TEXT:
            return False
    else:
        name, mode = getattr(call.func, "id", ""), call.args[1:2]
        if name != "open":
            return False
    modes = [keywords.get("mode"), *(getattr(part, "value", None) for part in mode)]
    return (
        name in ("read_text", "write_text")
        or bool(keywords.get("text") or keywords.get("universal_newlines"))
        or (name == "open" and not any("b" in str(mode) for mode in modes if mode))
    )


@pytest.mark.parametrize("file", SOURCES, ids=[path.name for path in SOURCES])
def test_text_files_say_their_encoding(file):
    calls = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)]
    assert [f"{file.name}:{call.lineno}" for call in calls if leaves_it_to_the_locale(call)] == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("path.read_text()", True), ("open('a')", True), ("open('a', 'rb')", False), ("path.open('a')", True),
        ("path.open(mode='rb')", False), ("subprocess.run(x, text=True)", True), ("Image.open(x)", False),
        ("path.write_text('a', encoding='utf-8')", False), ("read_text(path)", False),
    ],
)  # fmt: skip
def test_the_rule_of_encodings(code, wrong):
    assert leaves_it_to_the_locale(ast.parse(code).body[0].value) is wrong


def test_a_recipe_with_umlauts_under_a_locale_without_them(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("ein grünes Quadrat über 日本\nein roter Kreis\n", encoding="utf-8")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"extends: scenes\nname: größer\nprompts: {{train: {prompts}, held_out: 0.5}}\n", encoding="utf-8"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    code = subprocess.run(
        command("train", "mine.yaml", "--plan"), capture_output=True, cwd=tmp_path, env={**os.environ, **plain}
    )
    assert code.returncode == 0, code.stderr
    assert b"Plan of gr" in code.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "scenes", "--plan"]])
def test_windows_is_refused_in_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["advantageflow", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: AdvantageFlow runs on Linux and macOS; on Windows use the Linux of WSL 2 (wsl --install)"
    ]


def test_brackets_in_names_are_no_markup(capsys):
    print_plan(load_config("scenes", ['name="[/b]"']))
    assert "Plan of [/b]" in capsys.readouterr().out


def test_several_processes_are_refused_by_commands_of_one(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(sys, "argv", ["advantageflow", "report", "runs/x"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "one of 4 processes" in capsys.readouterr().err


class NoFloat64(TorchDispatchMode):
    """Tensors of the device "meta" are never float64, as on Apple's GPUs."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, f"{function} puts float64 on the device"
        return result


class Device(FlowModel):
    """A model on the device whose network answers its input."""

    device = torch.device("meta")
    latent_shape = (4, 2, 2)

    def __init__(self):
        self.transformer, self.fits = None, Fits()

    def encode(self, prompts):
        return Conditioning(torch.zeros(len(prompts), 1, 1, device="meta"))

    def encode_prompt(self, prompt):
        raise NotImplementedError

    def sigmas(self, num_steps):
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)

    def predict(self, transformer, x_t, timestep, prompt):
        assert timestep.dtype == torch.float32
        return x_t * timestep[:, None, None, None]

    def _predict(self, *args):
        return self.predict(*args)

    def decode_with_gradient(self, latents):
        return latents[:, :3]


class Acting:
    """A policy whose roles are all the model itself."""

    critic = None

    def acting_as(self, role):
        return nullcontext()


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_sampling_puts_no_float64_on_the_device(solver):
    model, x = Device(), torch.empty(3, 4, 2, 2, device="meta")
    with NoFloat64():
        prompt = model.encode(["a"] * 3)
        found = ODE_SOLVERS[solver](lambda x, t: model.velocity(None, x, t, prompt), x, model.sigmas(4))
        assert found.device.type == "meta"


def likeness(images, prompts):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize("name", names())
def test_sampling_and_learning_put_no_float64_on_the_device(name, monkeypatch):
    monkeypatch.setattr("advantageflow.rewards.gradients._problem", lambda *answer: None)  # it would look at values
    rollout = {"prompts_per_iteration": 1, "images_per_prompt": 4, "num_inference_steps": 4}
    config = check_config({"objective": name, "rollout": rollout, "learn": {"t_draws": 1}})
    model, method, prompts, reward = Device(), config.objective, ["a"] * 4, SimpleNamespace(with_gradient=likeness)
    rewards, groups = torch.tensor([0.1, 0.5, 0.2, 0.9], dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    with NoFloat64():
        plan = method.plan(0, 4, config.rollout.noise_level, None)
        ((_, rollout),) = sample_batches(
            model, None, prompts, stream=Stream.ROLLOUT, address=(0, 0), num_inference_steps=4,
            solver=config.rollout.solver, plan=plan,
        )  # fmt: skip
        probes = rewards[:, None] * torch.arange(len(rollout.probes))
        credit = method.credit(rewards, groups, rollout.scored(probes), config.advantage.model_dump())
        scored = Scored(prompts, rollout, rewards, groups, credit, (0, 0))
        policy, critic = Acting(), method.critic(4)
        policy.critic = critic and critic.to("meta")
        family = FAMILIES[method.family](model, policy, method, config, {"scenes_graded": reward}, scored)
        found = family.look(family.cases([0, 1, 2, 3]), 0)
    assert all(term.device.type == "meta" for term in found.terms.values())
