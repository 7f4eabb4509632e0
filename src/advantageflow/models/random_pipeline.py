"""A published model's pipeline at its true size, with random weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from advantageflow.models.architectures import ARCHITECTURES, Architecture, Part
from advantageflow.untrained import StandInTokenizer, hollow, untrained


def random_pipeline(
    path: str, dtype: torch.dtype, device: str = "cpu", waiting: str = "cpu", left_out: Collection[str] = ()
) -> Any:
    """The pipeline of a known model.

    Args:
        path: one of `ARCHITECTURES`.
        device: where the transformer is built, so that it needs no room elsewhere before.
        waiting: where all else is.
        left_out: names of parts that it is built without.
    """
    found = ARCHITECTURES[path]

    def build(part: Part, place: str = waiting) -> Any:
        return untrained(part.maker(), dtype, place)

    return _assemble(
        found,
        build(found.transformer, device),
        vae=build(found.vae),
        **{name: None if name in left_out else build(part) for name, part in found.encoders.items()},
        **{
            name: None if name in left_out else StandInTokenizer(**settings)
            for name, settings in found.tokenizers.items()
        },
    )


def empty_pipeline(path: str) -> Any:
    """The same with a transformer that takes no memory, and nothing else, for adapters to be loaded into.

    It has every layer, but no table of positions, which is no weight and takes gigabytes while it is made.
    """
    found = ARCHITECTURES[path]
    positions = {"pos_embed_max_size": 1} if "pos_embed_max_size" in found.transformer.settings else {}
    transformer = replace(found.transformer, settings={**found.transformer.settings, **positions})
    none = dict.fromkeys((*found.encoders, *found.tokenizers))
    return _assemble(found, hollow(transformer.maker()), vae=None, **none)


def _assemble(found: Architecture, network: Any, **parts: Any) -> Any:
    import diffusers

    scheduler = getattr(diffusers, found.scheduler_class)(**found.scheduler)
    return getattr(diffusers, found.family)(scheduler=scheduler, **{found.network: network}, **parts, **found.others)
