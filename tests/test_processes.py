"""Tasks side by side: where each runs, and what an error does."""

import time
from threading import Barrier

import pytest

from advantageflow.errors import ConfigError
from advantageflow.ranks import check_single_process
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


@pytest.mark.parametrize(
    ("variable", "launcher"), [("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun"), ("PMI_SIZE", "mpiexec")]
)
def test_several_processes_of_one_run_are_refused(monkeypatch, variable, launcher):
    check_single_process()
    monkeypatch.setenv(variable, "8")
    with pytest.raises(ConfigError, match=f"one of 8 processes.*{launcher}.*compare --jobs"):
        check_single_process()
    monkeypatch.setenv(variable, "1")
    check_single_process()
