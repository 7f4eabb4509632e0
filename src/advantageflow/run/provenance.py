"""What besides its settings decides a run: prompts, the model, the code of rewards. Kept in its checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advantageflow import fingerprint
from advantageflow.pairs import Pair
from advantageflow.pairs import fingerprint as of_pairs
from advantageflow.prompts import PromptSet


def of_inputs(
    train: PromptSet,
    held_out: PromptSet,
    rewards: Mapping[str, Callable[..., Any]],
    pairs: Sequence[Pair] | None = None,
) -> dict[str, str]:
    """Fingerprints of prompts, pairs and the files of a user's own rewards, by what they are called in messages."""
    sets = {"prompts.train": train, "prompts.held_out": held_out}
    found = {
        name: fingerprint.of_value([prompts.texts, prompts.tasks, prompts.metadata]) for name, prompts in sets.items()
    }
    for name, reward in rewards.items():
        file = _source(reward) if ":" in name and "://" not in name else None
        if file is not None:
            found[f"the file of the reward {name}"] = fingerprint.of_file(file)
    if pairs is not None:
        found["the pairs of rollout.source"] = of_pairs(pairs)
    return found


def _source(reward: Callable[..., Any]) -> Path | None:
    written = reward if inspect.isroutine(reward) or inspect.isclass(reward) else type(reward)
    try:
        file = inspect.getsourcefile(written)
    except TypeError:  # it is built in
        return None
    return Path(file) if file and Path(file).is_file() else None


@torch.no_grad()
def of_model(parts: Mapping[str, Any]) -> dict[str, str]:
    """A fingerprint of the weights of a pipeline's parts, the same on every device.

    Of every tensor it has name, precision, shape and the sum of its bytes, read as numbers: billions of weights take
    seconds, and no other training gives the same.
    """
    weights = {
        f"{part}.{name}": [str(tensor.dtype), list(tensor.shape), _sum(tensor)]
        for part, module in sorted(parts.items())
        if isinstance(module, nn.Module)
        for name, tensor in module.state_dict().items()
    }
    return {"the weights of model.path": fingerprint.of_value(weights)}


def _sum(tensor: torch.Tensor) -> int:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    numbers = tensor.detach().contiguous().flatten()
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers).flatten()
    return int(numbers.view(kinds[numbers.element_size()]).sum(dtype=torch.int64).item())
