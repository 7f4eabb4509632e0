"""Several processes of one machine share a run: the same bits, whatever their number."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
import torch
from command_line import command_line
from rich.console import Console
from test_trainer import average_velocity_of
from warm import Command, warm

from advantageflow import api
from advantageflow.config import check_config, dump_config
from advantageflow.errors import ConfigError
from advantageflow.models import load_model
from advantageflow.objectives import find
from advantageflow.prompts import PromptSet
from advantageflow.ranks import FIRST_PORT
from advantageflow.run.bystander import Bystander
from advantageflow.run.checkpoint import load_tensors
from advantageflow.run.directory import RunDirectory
from advantageflow.run.interrupts import EXIT_CODE
from advantageflow.run.keeping import place, saved
from advantageflow.run.progress import Display
from advantageflow.trainer import Trainer
from advantageflow.world import World, joined

# name, LoRA rank and more
METHODS = {
    "images": (
        "advantageflow",
        4,
        {
            "learn": {"optimizer_steps": 2, "t_draws": 2},
            "evaluation": {"num_images": 7, "every": 1, "prompts_shown": 6},
        },
    ),
    "windows": ("mix-grpo", 4, {"model": {"dtype": "bfloat16"}}),
    "probes": ("stepwise-flow-grpo", 4, {}),
    "groups": ("crd", 4, {"rollout": {"ahead": 1}}),
    "trees": ("branch-grpo", 4, {"rollout": {"images_per_prompt": 4}, "model": {"dtype": "float16"}}),
    "gradients": ("draft", 4, {"rollout": {"solver": "euler"}}),
    "adjoints": ("adjoint-matching", 4, {}),
    "averages": ("mean-flow-nft", 4, {}),
    "all weights": ("advantageflow", 0, {}),
}
SETTINGS = {  # nothing divides evenly
    "rollout": {"prompts_per_iteration": 7, "images_per_prompt": 3, "num_inference_steps": 4, "batch_size": 5},
    "learn": {"t_draws": 1, "batch_size": 8, "learning_rate": 1e-3},
    "evaluation": {"num_images": 2, "num_inference_steps": 2, "prompts_shown": 1},
    "run": {"iterations": 2, "probe_every": 1, "constant_rewards_stop": 0},
    "prompts": {"train": "scenes:train", "held_out": "scenes:held_out"},
}


def settings_of(folder, **changes):
    merged = {
        name: {**SETTINGS.get(name, {}), **changes.pop(name, {})} for name in {*SETTINGS, *changes} - {"objective"}
    }
    return {**merged, **changes, "model": {"path": str(folder), "device": "cpu", **merged.get("model", {})}}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def enter(rank, size, port, task, arguments, answers):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(timedelta(seconds=60)) as world:
        answers.put((rank, task(world, *arguments)))


def in_processes(size, task, *arguments):
    """What a task answers in each process, by rank."""
    context = warm()
    answers, port = context.Queue(), free_port()
    processes = [
        context.Process(target=enter, args=(rank, size, port, task, arguments, answers)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=240) for _ in processes)
    for process in processes:
        process.join(30)
    return [found[rank] for rank in range(size)]


def brightness(images, prompts):
    return images.mean((1, 2, 3)).tolist()


brightness.with_gradient = lambda images, prompts: images.mean((1, 2, 3))


def trained(world, folder, model_folder, objective, rank, changes):
    """The weights of all roles after a run, and its metrics without times."""
    if find(objective).average_velocity:
        model_folder = average_velocity_of(model_folder)
    config = check_config(
        settings_of(model_folder, objective=objective, policy={"lora_rank": rank, "lora_alpha": 8}, **changes)
    )
    directory = RunDirectory.create(folder, config) if world.rank == 0 else Bystander(folder)
    prompts = PromptSet(tuple(f"{count} circles" for count in range(9)), tuple("abc" * 3))
    trainer = Trainer(
        config, directory, load_model(**config.model.model_dump()), train_prompts=prompts, held_out_prompts=prompts,
        rewards={"scenes_graded": brightness}, evaluated=dict.fromkeys(config.evaluation.rewards, brightness),
        display=Display(Console(file=StringIO()), config), world=world,
    )  # fmt: skip
    rows = []
    once = trainer.iterate
    trainer.iterate = lambda: rows.append(once()) or rows[-1]
    summary = trainer.run()
    for told in (*rows, summary):
        for name in [name for name in told if name.startswith("seconds") or name == "peak_memory"]:
            del told[name]
    weights = {
        f"{role} {name}": hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()
        for role, found in trainer.policy.state().items()
        for name, weight in found.items()
    }
    return weights, rows, summary


def worked(world, folder, model_folder, names):
    """What runs of some kinds ended with, and what was exchanged."""
    return {
        name: trained(world, folder / f"{name}-{world.size}", model_folder, *METHODS[name]) for name in names
    }, exchanged(world)


def exchanged(world):
    values = world.exchange({number: torch.full((2,), float(item)) for number, item in world.deal([*range(10, 17)])})
    sums = [torch.full((3,), float(world.rank + 1), dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)]
    world.sum(sums)
    world.check_same({"versions": "1"})
    with pytest.raises(ConfigError, match=r"process 1 on \S+ has prompts 1, and process 0 on \S+ has 0; give all"):
        world.check_same({"prompts": world.rank})
    return (
        [value[0].item() for value in values],
        sums[0].tolist(),
        sums[1].sum().item(),
        world.share(lambda: world.rank),
    )


def test_the_number_of_processes_changes_no_bit(tmp_path, tiny_pipeline_folder):
    alone = {
        name: trained(World(), tmp_path / f"{name}-1", tiny_pipeline_folder, *kind) for name, kind in METHODS.items()
    }
    for size, names in ((2, [*METHODS]), (3, ["images", "windows", "groups", "all weights"])):
        for found, (values, first, second, shared) in in_processes(size, worked, tmp_path, tiny_pipeline_folder, names):
            for name in names:
                assert found[name] == alone[name], name
            assert values == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]  # every process learns every number
            assert first == [size * (size + 1) / 2] * 3
            assert second == 4 * size
            assert shared == 0


def test_a_world_of_one_needs_no_other():
    world = World()
    assert world.exchange(dict(world.deal("abc"))) == ["a", "b", "c"]
    assert world.share(lambda: 3) == 3


def command(*arguments):
    # with the child's own copy of the package, wherever the tests are started from
    return [sys.executable, "-m", "advantageflow", *map(str, arguments)]


def start(*arguments, **environment):
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for_row(run, count, process):
    while process.poll() is None and (
        not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < count
    ):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[0]


def processes_of(run):
    """Numbers of the processes that work for a run, but for the one that started them."""
    found = subprocess.run(["pgrep", "-f", f"{run}( |$)"], capture_output=True, text=True).stdout.split()
    return [int(number) for number in found if b"RANK=1\0" in Path(f"/proc/{number}/environ").read_bytes()]


def rows_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_run_is_stopped_killed_and_resumed_by_other_numbers_of_processes(tmp_path, tiny_pipeline_folder):
    run = {"iterations": 5, "checkpoint_every": 2, "samples_every": 2, "threads": 1}
    kind = METHODS["images"]
    recipe = tmp_path / "recipe.yaml"
    settings = settings_of(tiny_pipeline_folder, objective=kind[0], run=run, learn={"optimizer_steps": 2})
    recipe.write_text(dump_config(check_config({**settings, "policy": {"lora_rank": 4}})))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, undisturbed, _ = command_line("train", recipe, "--output", whole)
    assert code == 0
    assert "5 iterations" in undisturbed

    one = start("train", recipe, "--output", parts, "--processes", "3")
    wait_for_row(parts, 1, one)
    one.send_signal(signal.SIGTERM)
    said = one.communicate(timeout=60)[0]
    assert one.returncode == EXIT_CODE, said
    assert f"continue with: advantageflow train --resume {parts}" in said
    count = len(rows_of(parts))
    assert saved(parts / "checkpoints")[-1] == count < 5  # what was begun is undone, what was done is kept

    two = start("train", "--resume", parts, "--processes", "2")
    wait_for_row(parts, count + 1, two)
    os.kill(processes_of(parts)[0], signal.SIGKILL)
    said = two.communicate(timeout=60)[0]
    assert two.returncode == 4, said
    assert "process 1 was ended by SIGKILL" in said

    code, said, _ = command_line("train", "--resume", parts)
    assert code == 0
    assert "5 iterations" in said
    assert rows_of(parts) == rows_of(whole)
    then, now = (load_tensors(place(folder / "checkpoints", 5)) for folder in (whole, parts))
    for group, tensors in then.items():
        assert all(torch.equal(tensor, now[group][name]) for name, tensor in tensors.items()), group
    for file in sorted(path.relative_to(whole) for path in (whole / "samples").rglob("*") if path.is_file()):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file


def test_evaluations_are_the_same(tmp_path, tiny_pipeline_folder, launched):
    model, alone, shared = str(tiny_pipeline_folder), tmp_path / "alone", tmp_path / "shared"
    scored = {"reward": "scenes_graded", "prompts": "scenes:held_out", "images": 70, "steps": 2}
    api.evaluate(model, output=alone, quiet=True, **scored)
    options = [word for name, value in scored.items() for word in (f"--{name}", value)]
    code, _, said = command_line("evaluate", model, *options, "--output", shared, "--processes=2")
    assert code == 0, said
    assert "70 of 70" in launched[0].read_text()
    names = sorted(path.name for path in alone.iterdir())
    assert names
    for name in names:
        assert (shared / name).read_bytes() == (alone / name).read_bytes(), name


REWARDS = """
import os, time

def hangs_in_one(images, prompts):
    if os.environ.get("RANK") == "1" and len(prompts) > 1:
        time.sleep(1000)
    return [0.0] * len(prompts)
"""


def test_what_goes_wrong_in_one_process_ends_all_and_is_told_by_it(tmp_path, tiny_pipeline_folder, launched):
    (tmp_path / "mine.py").write_text(REWARDS)
    recipe = tmp_path / "recipe.yaml"
    settings = settings_of(tiny_pipeline_folder, scoring={"timeout": 2, "attempts": 1})
    recipe.write_text(dump_config(check_config({**settings, "reward": f"{tmp_path}/mine.py:hangs_in_one"})))
    started = time.monotonic()
    code, _, said = command_line("train", recipe, "--output", tmp_path / "run", "--processes", "2")
    assert code == 2
    assert "process 1: error: the reward" in said
    assert "hangs_in_one' failed: no answer within 2 seconds" in said
    assert "Traceback" not in said
    assert time.monotonic() - started < 60


def slurm_tasks(folder, *commands):
    """Processes as srun starts them on one machine; what each said, and its exit code."""
    job = str(free_port() - FIRST_PORT)
    step = {"SLURM_STEP_NUM_TASKS": str(len(commands)), "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": job}
    tasks = [
        Command(
            words,
            {**os.environ, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            folder / f"said-{rank}",
        )
        for rank, words in enumerate(commands)
    ]
    said = [task.communicate() for task in tasks]
    return said, [task.returncode for task in tasks]


def test_slurm_starts_a_run_and_goes_on_with_it(tmp_path, tiny_pipeline_folder):
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    settings = settings_of(tiny_pipeline_folder, run={"iterations": 1}, evaluation={"every": 10, "num_images": 2})
    recipe.write_text(dump_config(check_config(settings)))
    begin, go_on = ("train", recipe, "--output", run), ("train", "--resume", run)
    said, codes = slurm_tasks(tmp_path, begin, begin)
    assert codes == [0, 0], said
    assert "1 iteration," in said[0]
    assert not said[1]
    assert len(rows_of(run)) == 1

    said, codes = slurm_tasks(tmp_path, go_on, begin)  # a machine that does not see the run's folder
    assert codes == [2, 2], said
    assert "process 1 on" in said[0]
    assert "has command 'train', and process 0 on" in said[0]
    assert "'train --resume'; give all processes the same command" in said[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_processes_end_with_torchrun(tmp_path, tiny_pipeline_folder):
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(dump_config(check_config(settings_of(tiny_pipeline_folder, run={"iterations": 500}))))
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "advantageflow", "train",
         recipe, "--output", run, "run.threads=1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for_row(run, 1, torchrun)
    workers = subprocess.run(["pgrep", "-P", str(torchrun.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 2
    torchrun.kill()
    torchrun.communicate(timeout=30)  # to the end of what the processes say
    end = time.monotonic() + 30
    while any(Path(f"/proc/{number}/fd").exists() and os.listdir(f"/proc/{number}/fd") for number in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
