"""Tasks side by side: where each runs, and what an error does."""

import time
from threading import Barrier

import pytest

from advantageflow.errors import ConfigError
from advantageflow.ranks import Place, check_single_process, first_host, meeting_point, place
from advantageflow.studies.processes import child_environment, in_parallel


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [("3,5", 2, {"3", "5"}), ("3,5", 4, {"3", "5"}), ("GPU-a,GPU-b,GPU-c", 2, {"GPU-a", "GPU-b"}), ("7", 2, {"7"})],
)
def test_runs_at_once_spread_over_the_gpus(gpus, jobs, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    together = Barrier(jobs)

    def task():
        together.wait(timeout=60)
        return child_environment(threads=1)

    found = [environment["CUDA_VISIBLE_DEVICES"] for environment in in_parallel([task] * jobs, jobs)]
    assert set(found) == expected
    assert all(found.count(gpu) == jobs // len(expected) for gpu in expected)
    assert child_environment(threads=0)["CUDA_VISIBLE_DEVICES"] == gpus.split(",")[0]  # outside a task


def test_threads_are_set_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert child_environment(threads=2)["OMP_NUM_THREADS"] == "2"
    assert child_environment(threads=0)["OMP_NUM_THREADS"] == "5"


def test_after_an_error_nothing_more_is_started():
    started = []

    def task(number):
        started.append(number)
        if number == 1:
            raise ValueError("broken")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="broken"):
        list(in_parallel([lambda number=number: task(number) for number in range(50)], 1))
    assert len(started) < 10  # the next may have begun


def test_a_command_of_one_process_refuses_several(monkeypatch):
    check_single_process("report")
    for variable in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        with monkeypatch.context() as several:
            several.setenv(variable, "8")
            with pytest.raises(ConfigError, match=r"one of 8 processes, but advantageflow report is one.*--jobs"):
                check_single_process("report")


def test_what_launchers_say():
    assert place({}) == place({"WORLD_SIZE": "1", "SLURM_PROCID": "3"}) == Place(0, 1, 0)
    assert place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Place(5, 8, 1)  # torchrun, accelerate
    slurm = {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4040007"}
    slurm["SLURM_STEP_NODELIST"] = "gpu[07-08],login1"
    assert place(slurm) == Place(9, 16, 1)
    expected = {"RANK": "9", "WORLD_SIZE": "16", "MASTER_ADDR": "gpu07", "MASTER_PORT": "20007"}
    assert meeting_point(slurm) == expected
    assert meeting_point({**slurm, "MASTER_ADDR": "head", "MASTER_PORT": "29500"})["MASTER_ADDR"] == "head"
    assert [first_host(nodes) for nodes in ("a", "a,b", "n[3,5]", "n-x[001-128]", "")] == ["a", "a", "n3", "n-x001", ""]
    with pytest.raises(ConfigError, match="one of 4 processes, but MASTER_ADDR"):
        meeting_point({"RANK": "1", "WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match=r"one of 4 processes.*mpiexec.*start them with --processes, torchrun"):
        place({"PMI_SIZE": "4"})
