"""A run that is killed, its newest checkpoint damaged each time, ends as if nothing had happened."""

import importlib.util
from pathlib import Path

import pytest
from command_line import command_line

FILE = Path(__file__).parent.parent / "benchmarks" / "crash.py"


def test_kills_and_damage_change_no_byte(tmp_path, tiny_pipeline_folder, monkeypatch: pytest.MonkeyPatch):
    specification = importlib.util.spec_from_file_location("crash", FILE)
    crash = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(crash)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # what nobody kills needs no process of its own, which takes seconds to start
    monkeypatch.setattr(crash, "finish", lambda *arguments: command_line("train", *arguments))
    found = crash.crash(str(tiny_pipeline_folder), kills=2, iterations=8, seed=0, folder=tmp_path)
    assert found.pop("while_a_checkpoint_was_written") <= 2  # a moment that may be missed
    assert found == {
        "kills": 2, "of_two_processes": 1, "damaged": 1, "set_aside": 1, "iterations": 8,
        "unreadable": 0, "orphans": 0, "rows_lost": 0, "rows_doubled": 0, "differs": [],
    }  # fmt: skip
