"""What the machine may refuse: one sentence, exit code 2, and nothing that blocks the corrected command."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch

from advantageflow import cli
from advantageflow.cli import main
from advantageflow.config import check_config
from advantageflow.devices import choose_device
from advantageflow.errors import ConfigError
from advantageflow.run.checkpoint import write_atomic


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["advantageflow", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "scenes", "--output", "{file}"], "is a file"),
        (["train", "scenes", "--output", "{file}/run"], "is a file"),
        (["train", "scenes", "--output", "{folder}/" + "n" * 300], "300 bytes"),
        (["train", "scenes", "--output", "{folder}/a\0b"], "NUL"),
        (["train", "scenes", "model.device=banana", "--output", "{folder}/run"], "cuda:NUMBER"),
        (["train", "scenes", "model.device=cuda:777", "--output", "{folder}/run"], "cuda:777"),
        (["train", "scenes", "model.dtype=float8", "--output", "{folder}/run"], "bfloat16"),
        (["sample", "a red circle", "--dtype", "float8"], "bfloat16"),
        (["sample", "a red circle", "--output", "{folder}"], "is a folder"),
        (["sample", "a red circle", "--output", "{file}/picture.png"], "is a file"),
        (["evaluate", "--output", "{file}"], "is a file"),
        (["evaluate", "--json", "{folder}"], "is a folder"),
        (["compare", "scenes", "--output", "{file}"], "is a file"),
        (["report", "{folder}", "--output", "{folder}"], "is a folder"),
    ],
)
def test_a_place_or_device_that_cannot_be_is_one_sentence(arguments, told, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    names = {"file": str(tmp_path / "file"), "folder": str(tmp_path / "folder")}
    code, said = run(monkeypatch, capsys, *(argument.format(**names) for argument in arguments))
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert told in said
    assert not list((tmp_path / "folder").iterdir())  # nothing is left behind


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"config\.yaml"):
        write_atomic(tmp_path / "config.yaml", "seed: 0")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/state.json"), 2, "runs/a/state.json: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "there"), 2, "there: permission denied"),
        (MemoryError(), 2, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "rollout.batch_size"),
        (ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), 2, "advantageflow[rewards]"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(error, code, told, monkeypatch, capsys):
    def refuse(**settings: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    found, said = run(monkeypatch, capsys)
    assert found == code
    assert told in said
    assert said.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(**settings: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError, match="ours"):
        main()


def test_a_reader_that_has_gone_is_no_traceback():
    command = [sys.executable, "-m", "advantageflow", "train", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        found = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == ""


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices_are_named_as_pytorch_names_them(name):
    assert check_config({"model": {"device": name}}).model.device == name


def test_cuda_without_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == "cpu"
    with pytest.raises(ConfigError, match=r"model\.device=cpu"):
        choose_device("cuda")


def test_a_device_number_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="cuda:0, cuda:1"):
        choose_device("cuda:7")
