"""What a reward is given and what it answers: its own copies in, one float per image out."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from advantageflow.errors import shown

Metadata = Sequence[Mapping[str, Any]]


class AnswerError(ValueError):
    """An answer that is not one finite float per image."""


def ask(reward: Callable[..., Any], images: Tensor, prompts: Sequence[str], metadata: Metadata | None) -> Tensor:
    """Call a reward on copies that are its alone; float64 [batch].

    A third positional argument that is required, or named metadata, gets the prompts' other columns, a dict each.

    Raises:
        AnswerError: it does not return one finite float per image.
    """
    own = images.detach().clone(memory_format=torch.contiguous_format)
    if not takes_metadata(reward):
        return _floats(reward(own, list(prompts)), prompts)
    columns = [dict(copy.deepcopy(row)) for row in metadata or [{}] * len(prompts)]
    return _floats(reward(own, list(prompts), columns), prompts)


def takes_metadata(reward: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # some functions written in C tell nothing
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and (positional[2].default is inspect.Parameter.empty or "meta" in positional[2].name)


def _floats(answer: Any, prompts: Sequence[str]) -> Tensor:
    if isinstance(answer, Tensor):
        answer = answer.detach()
    if hasattr(answer, "tolist"):  # of numpy, torch, pandas: on any device, of any dtype
        answer = answer.tolist()
    if isinstance(answer, str | bytes | Mapping | Set) or not isinstance(answer, Iterable):
        kind = type(answer).__name__
        raise AnswerError(f"failed: it returned {shown(answer, 80)}, a {kind}; return a list, one float per image")
    if not isinstance(answer, Sized):
        answer = list(islice(answer, len(prompts) + 1))
    if len(answer) != len(prompts):
        raise AnswerError(f"returned {len(answer)} values for {len(prompts)} images; return one per image")
    values = [_number(value, index) for index, value in enumerate(answer)]
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise AnswerError(f"returned {value} for sample {index}, prompt {shown(prompts[index])}")
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _number(value: Any, index: int) -> float:
    """A Python, numpy or torch number, also in a list of its own, as the rows of [batch, 1] are."""
    given = value
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    try:
        return float("text" if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError, OverflowError) as error:
        told = f"failed: it returned {shown(given, 80)} for sample {index}; return one float per image"
        raise AnswerError(told) from error
