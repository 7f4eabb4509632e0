"""A base that is parted among processes: each holds a share of every block, and the block while it computes with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.torch_version import TorchVersion

from advantageflow.errors import ConfigError
from advantageflow.world import World


def check_sharding() -> None:
    """Check that this PyTorch can part a base and leave its adapters whole.

    Raises:
        ConfigError: it is too old.
    """
    if torch.__version__ < TorchVersion("2.7"):
        raise ConfigError(f"model.shard needs PyTorch 2.7, and this is {torch.__version__}; update it, or leave it out")


def repeated_blocks(transformer: nn.Module) -> list[nn.Module]:
    """The blocks that make up nearly all of a diffusers transformer."""
    return [part for part in transformer.modules() if type(part).__name__.endswith("TransformerBlock")]


def shard(transformer: nn.Module, whole: Iterable[Any], device: torch.device, world: World) -> None:
    """Part a transformer's frozen weights among the processes of a world, on their devices. The world is even then.

    Every call of the transformer, and of its backward pass, is one of all processes. One process has all.

    Args:
        whole: parameters that every process has for itself.

    Raises:
        ConfigError: the processes share one GPU, which has no room to gain.
    """
    if world.size > 1:
        from torch.distributed.fsdp import fully_shard

        if device.type == "cuda" and "nccl" not in (world.backend or ""):
            raise ConfigError(
                f"model.shard parts the base among GPUs, but these {world.size} processes share one; start one for "
                "each GPU, or set model.shard=false"
            )
        ignored, group = set(whole), world.group or dist.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, device.type)
        for part in (*repeated_blocks(transformer), transformer):
            # nothing stays gathered after a call: the first process alone saves, which would part its weights again
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        world.even = True
    transformer.to(device)
