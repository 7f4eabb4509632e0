"""A run that is killed, its newest checkpoint damaged each time, ends as if nothing had happened."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "crash.py"


def test_kills_and_damage_change_no_byte(tmp_path, tiny_pipeline_folder, monkeypatch: pytest.MonkeyPatch):
    specification = importlib.util.spec_from_file_location("crash", FILE)
    crash = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(crash)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = crash.crash(str(tiny_pipeline_folder), kills=2, iterations=12, seed=0, folder=tmp_path)
    assert found == {"kills": 2, "set_aside": 2, "iterations": 12, "differs": []}
