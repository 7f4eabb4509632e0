"""What `advantageflow doctor` tells of an installation and a machine."""

import json
import socket

import pytest
from command_line import command_line

from advantageflow import doctor
from advantageflow.rewards import BUILT_IN as REWARDS

CPU = {"kind": "cpu", "memory_gb": 64.0}
MEDIUM = "sd35m-pickscore"


@pytest.fixture(autouse=True)
def without_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))

    def refuse(*arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_machine_that_works_fits_on_a_screen_without_secrets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, told, error = command_line("doctor")
    assert (code, error) == (0, "")
    assert max(map(len, told.splitlines())) <= 80
    assert len(told.splitlines()) <= 40
    assert "a token is there" in told
    assert "hf_secret" not in told
    assert "scenes and " in told
    assert told.split()[-2:] == ["broken", "nothing"]


def test_what_is_broken_is_named_and_has_an_exit_code(monkeypatch, tmp_path):
    sums = doctor.SUMS.read_text().splitlines()
    name = sums[0].split()[1]
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"cut off")
    monkeypatch.setattr(doctor, "SUMS", tmp_path / "SHA256SUMS")
    monkeypatch.setattr(doctor, "recipe_obstacles", lambda *_: {})
    code, told, _ = command_line("doctor", "--json")
    assert code == 1
    found = json.loads(told)
    assert found["weights"] == "damaged"
    assert found["broken"] == [f"the weights {name} are not those that were shipped; install again"]
    assert "hf_secret" not in told


def test_an_installation_that_does_not_fit_together_says_which_package(monkeypatch):
    monkeypatch.setattr(doctor, "CORE", ("advantageflow", "no_such_package"))
    code, told, _ = command_line("doctor")
    assert code == 1
    assert "no_such_package cannot be imported (ModuleNotFoundError" in " ".join(told.split())


def test_every_shipped_weight_has_its_sum():
    """After a world is trained again: find . -name '*.safetensors' | sed 's#^./##' | sort | xargs sha256sum."""
    weights = {path.relative_to(doctor.SUMS.parent).as_posix() for path in doctor.SUMS.parent.rglob("*.safetensors")}
    assert {line.split()[1] for line in doctor.SUMS.read_text().splitlines()} == weights
    assert doctor.damaged_weights() == []


def test_what_a_reward_lacks(monkeypatch):
    assert {name for name in REWARDS if doctor.reward_obstacle(name)} <= {"ocr", "words", "vlm"}
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    assert doctor.reward_obstacle("ocr") == "rapidocr, onnxruntime missing"
    assert doctor.reward_obstacle("scenes_graded") == ""
    assert doctor.to_fetch("pickscore") == pytest.approx(3.904)


@pytest.mark.parametrize(
    ("devices", "free", "told"),
    [
        ([CPU, {"kind": "cuda", "memory_gb": 80.0}], 100.0, ""),
        ([CPU, {"kind": "cuda", "memory_gb": 16.0}], 100.0, "GB are needed, the GPU has 16; see --plan"),
        ([CPU, {"kind": "cuda", "memory_gb": 80.0}], 10.0, "GB are fetched, 10 are free"),
        ([CPU], 100.0, "hours on this CPU; it needs a GPU"),
    ],
)
def test_why_a_large_recipe_would_not_run(devices, free, told, monkeypatch):
    monkeypatch.setattr(doctor, "recipe_names", lambda: [MEDIUM, "scenes"])
    found = doctor.recipe_obstacles(devices, free)
    assert told in found[MEDIUM]
    assert bool(told) == bool(found[MEDIUM])
    assert found["scenes"] == ""


def test_a_gated_model_needs_a_token(monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(doctor, "recipe_names", lambda: [MEDIUM])
    found = doctor.recipe_obstacles([CPU, {"kind": "cuda", "memory_gb": 80.0}], 100.0)
    assert "is gated: accept its licence, then hf auth login" in found[MEDIUM]
