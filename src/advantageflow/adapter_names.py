"""The names that adapters in the world give to a transformer's layers, and the layers they stand for.

Trainers write a layer as `transformer.a.b`, `base_model.model.a.b`, `diffusion_model.a.b` or `lora_unet_a_b`, by
diffusers' name or by that of the model's first publication, where queries, keys and values are one layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
FLAT_PREFIXES = ("lora_transformer_", "lora_unet_")
_BLOCK, _SINGLE = "transformer_blocks.{i}", "single_transformer_blocks.{i}"
_IMAGE = tuple(f"{_BLOCK}.attn.to_{name}" for name in "qkv")
_TEXT = tuple(f"{_BLOCK}.attn.add_{name}_proj" for name in "qkv")
_EMBEDDER = "time_text_embed.{}_embedder.linear_{}"
# First published name -> diffusers' layers, whose outputs it holds one after another
_SD3: dict[str, tuple[str, ...]] = {
    "joint_blocks.{i}.x_block.attn.qkv": _IMAGE,
    "joint_blocks.{i}.x_block.attn.proj": (f"{_BLOCK}.attn.to_out.0",),
    "joint_blocks.{i}.x_block.attn2.qkv": tuple(f"{_BLOCK}.attn2.to_{name}" for name in "qkv"),
    "joint_blocks.{i}.x_block.attn2.proj": (f"{_BLOCK}.attn2.to_out.0",),
    "joint_blocks.{i}.context_block.attn.qkv": _TEXT,
    "joint_blocks.{i}.context_block.attn.proj": (f"{_BLOCK}.attn.to_add_out",),
    "joint_blocks.{i}.x_block.mlp.fc1": (f"{_BLOCK}.ff.net.0.proj",),
    "joint_blocks.{i}.x_block.mlp.fc2": (f"{_BLOCK}.ff.net.2",),
    "joint_blocks.{i}.context_block.mlp.fc1": (f"{_BLOCK}.ff_context.net.0.proj",),
    "joint_blocks.{i}.context_block.mlp.fc2": (f"{_BLOCK}.ff_context.net.2",),
    "joint_blocks.{i}.x_block.adaLN_modulation.1": (f"{_BLOCK}.norm1.linear",),
    "joint_blocks.{i}.context_block.adaLN_modulation.1": (f"{_BLOCK}.norm1_context.linear",),
    "t_embedder.mlp.0": (_EMBEDDER.format("timestep", 1),),
    "t_embedder.mlp.2": (_EMBEDDER.format("timestep", 2),),
    "y_embedder.mlp.0": (_EMBEDDER.format("text", 1),),
    "y_embedder.mlp.2": (_EMBEDDER.format("text", 2),),
}
_FLUX: dict[str, tuple[str, ...]] = {
    "double_blocks.{i}.img_attn.qkv": _IMAGE,
    "double_blocks.{i}.img_attn.proj": (f"{_BLOCK}.attn.to_out.0",),
    "double_blocks.{i}.txt_attn.qkv": _TEXT,
    "double_blocks.{i}.txt_attn.proj": (f"{_BLOCK}.attn.to_add_out",),
    "double_blocks.{i}.img_mlp.0": (f"{_BLOCK}.ff.net.0.proj",),
    "double_blocks.{i}.img_mlp.2": (f"{_BLOCK}.ff.net.2",),
    "double_blocks.{i}.txt_mlp.0": (f"{_BLOCK}.ff_context.net.0.proj",),
    "double_blocks.{i}.txt_mlp.2": (f"{_BLOCK}.ff_context.net.2",),
    "double_blocks.{i}.img_mod.lin": (f"{_BLOCK}.norm1.linear",),
    "double_blocks.{i}.txt_mod.lin": (f"{_BLOCK}.norm1_context.linear",),
    "single_blocks.{i}.linear1": (*(f"{_SINGLE}.attn.to_{name}" for name in "qkv"), f"{_SINGLE}.proj_mlp"),
    "single_blocks.{i}.linear2": (f"{_SINGLE}.proj_out",),
    "single_blocks.{i}.modulation.lin": (f"{_SINGLE}.norm.linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (_EMBEDDER.format("timestep", 1),),
    "time_in.out_layer": (_EMBEDDER.format("timestep", 2),),
    "vector_in.in_layer": (_EMBEDDER.format("text", 1),),
    "vector_in.out_layer": (_EMBEDDER.format("text", 2),),
    "guidance_in.in_layer": (_EMBEDDER.format("guidance", 1),),
    "guidance_in.out_layer": (_EMBEDDER.format("guidance", 2),),
}
_BOTH: dict[str, tuple[str, ...]] = {
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
PUBLISHED = _SD3 | _FLUX | _BOTH
PUBLISHED_BY_FAMILY = {"StableDiffusion3Pipeline": _SD3 | _BOTH, "FluxPipeline": _FLUX | _BOTH}


def published_names(layers: Iterable[str], family: str) -> dict[str, tuple[str, ...]]:
    """An adapter's layers by the names of the model's first publication, or by their own, with "_" for ".".

    Args:
        family: class of the pipeline.
    """
    layers = [*layers]
    found = {
        name: meant
        for name, meant in known_names(layers, PUBLISHED_BY_FAMILY.get(family, {})).items()
        if name not in map(_flat, layers)
    }
    published = {layer for meant in found.values() for layer in meant}
    return found | {_flat(layer): (layer,) for layer in layers if layer not in published}


def known_names(
    layers: Iterable[str], published: Mapping[str, tuple[str, ...]] = PUBLISHED
) -> dict[str, tuple[str, ...]]:
    """Every name that a transformer with these layers may be meant by, with "_" for ".", -> its layers."""
    layers = set(layers)
    blocks = sorted({int(found[1]) for name in layers if (found := re.match(r"\w*transformer_blocks\.(\d+)\.", name))})
    known = {}
    for name, targets in published.items():
        for i in blocks if "{i}" in name else [0]:
            meant = tuple(target.format(i=i) for target in targets)
            if layers.issuperset(meant):
                known[_flat(name.format(i=i))] = meant
    return known | {_flat(name): (name,) for name in layers}


def without_network(name: str) -> str:
    """A layer's name in a file of diffusers without the network's, as peft has it."""
    return name.removeprefix("transformer.").removeprefix("unet.")


def bare_name(name: str) -> str:
    """A layer's name in a file without what its trainer put before it, with "_" for "."."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for prefix in FLAT_PREFIXES:
        name = name.removeprefix(prefix)
    return _flat(name)


def has_swapped_halves(name: str, inputs: int, outputs: int) -> bool:
    """Whether a layer, by its bare name, gives shift and scale in the other order than diffusers' layer does."""
    return name.endswith("adaLN_modulation_1") and outputs == 2 * inputs


def _flat(name: str) -> str:
    return name.replace(".", "_")
