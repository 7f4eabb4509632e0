"""A base whose weights are parted among processes: what a run learns is what one process would."""

import math
import os
import threading
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_several_processes import in_processes, settings_of
from torch.distributed.tensor import DTensor

from advantageflow.building import Inputs, build
from advantageflow.config import check_config
from advantageflow.errors import ConfigError
from advantageflow.prompts import PromptSet
from advantageflow.run.bystander import Bystander
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import saved
from advantageflow.sharding import check_sharding
from advantageflow.world import World

RUNS = {
    "images": ("advantageflow", {"learn": {"optimizer_steps": 2}}),
    "checkpointed": ("advantageflow", {"model": {"gradient_checkpointing": True}}),
    "bfloat16": ("advantageflow", {"model": {"dtype": "bfloat16"}}),
    "trees": ("branch-grpo", {"rollout": {"images_per_prompt": 4}}),
    "through the sampler": ("draft", {"objective": {"last_steps": 2}, "learn": {"t_draws": 1}}),
}


def brightness(images, prompts):
    return images.mean((1, 2, 3)).tolist()


brightness.with_gradient = lambda images, prompts: images.mean((1, 2, 3))


def built(world, folder, model_folder, objective, changes, shard, said=None):
    method = {"name": objective, **changes.get("objective", {})}
    changes = {name: part for name, part in changes.items() if name != "objective"}
    model = {"shard": shard, **changes.pop("model", {})}
    config = check_config(
        settings_of(model_folder, objective=method, policy={"lora_rank": 4, "lora_alpha": 8}, model=model, **changes)
    )
    prompts = PromptSet(tuple(f"{count} circles" for count in range(9)), tuple("abc" * 3))
    rewards = {"scenes_graded": brightness}
    directory = RunDirectory.create(folder, config) if world.rank == 0 else Bystander(folder)
    inputs = Inputs(prompts, prompts, rewards, dict.fromkeys(config.evaluation.rewards, brightness))
    return build(config, directory, inputs, Console(file=said or StringIO(), width=200), world=world)


def trained(*arguments):
    trainer = built(*arguments)
    rows, once = [], trainer.iterate
    trainer.iterate = lambda: rows.append(once()) or rows[-1]
    rows.append(trainer.run())
    return trainer, [[value for value in flat(row)] for row in rows]
