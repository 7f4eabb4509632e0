"""Several processes of one machine: the same bits, whatever their number."""

import hashlib
import multiprocessing
import os
import socket
from datetime import timedelta

import torch

from advantageflow.config import check_config
from advantageflow.learner import Learner
from advantageflow.learning import Scored
from advantageflow.models import load_model
from advantageflow.policy import Policy
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream
from advantageflow.world import World, joined

# name and LoRA rank: images, windows, groups, trees, and all weights
METHODS = [("advantageflow", 4), ("mix-grpo", 4), ("crd", 4), ("branch-grpo", 4), ("advantageflow", 0)]
PROMPTS, IMAGES = 7, 4  # nothing divides evenly


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
    context = multiprocessing.get_context("spawn")
    answers, port = context.Queue(), free_port()
    processes = [
        context.Process(target=enter, args=(rank, size, port, task, arguments, answers)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
    return [found[rank] for rank in range(size)]


def exchanged(world):
    values = world.exchange({place: torch.full((2,), float(item)) for place, item in world.deal([*range(10, 17)])})
    sums = [torch.full((3,), float(world.rank + 1), dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)]
    world.sum(sums)
    return [value[0].item() for value in values], sums[0].tolist(), sums[1].sum().item()


def test_a_world_of_one_needs_no_other():
    world = World()
    assert world.exchange(dict(world.deal("abc"))) == ["a", "b", "c"]


def learned(world, folder, objective, rank):
    """A fingerprint of weights and metrics after two optimizer steps on an iteration's images."""
    sections = {"rollout": {"prompts_per_iteration": PROMPTS, "images_per_prompt": IMAGES, "num_inference_steps": 4}}
    config = check_config(
        {
            "objective": objective,
            "policy": {"lora_rank": rank, "lora_alpha": 8},
            "learn": {"t_draws": 2, "optimizer_steps": 2, "batch_size": 5, "learning_rate": 1e-3},
            **sections,
        }
    )
    model, method = load_model(str(folder)), config.objective
    policy = Policy(model.transformer, lora_rank=rank, lora_alpha=8, slow=method.slow)
    prompts = [f"{count} circles" for count in range(PROMPTS) for _ in range(IMAGES)]
    groups = torch.arange(PROMPTS).repeat_interleave(IMAGES)
    rewards = torch.rand(len(prompts), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with policy.acting_as("rollout") as transformer:
        ((_, rollout),) = sample_batches(
            model, transformer, prompts, stream=Stream.ROLLOUT, address=(0, 0), num_inference_steps=4,
            solver=config.rollout.solver, plan=method.plan(0, 4, config.rollout.noise_level, None),
        )  # fmt: skip
    credit = method.credit(rewards, groups, rollout.edges, config.advantage.model_dump())
    learner = Learner(config, model, policy, method, {}, lambda count: None, world)
    scored = Scored(prompts, rollout, rewards, groups, credit, (0, 0))
    metrics = {**learner.probe(scored), **learner.learn(scored)}
    digest = hashlib.sha256()
    for parameter in policy.parameters:
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest(), metrics


def worked(world, folder):
    """What every method of `METHODS` learned, and what was exchanged."""
    return [learned(world, folder, *method) for method in METHODS], exchanged(world)


def test_the_number_of_processes_changes_no_bit(tiny_pipeline_folder):
    alone, _ = worked(World(), tiny_pipeline_folder)
    assert all(metrics["loss"] is not None for _, metrics in alone)
    for size in (2, 3):
        for found, (values, first, second) in in_processes(size, worked, tiny_pipeline_folder):
            assert found == alone
            assert values == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]  # every process learns every number
            assert first == [size * (size + 1) / 2] * 3
            assert second == 4 * size
