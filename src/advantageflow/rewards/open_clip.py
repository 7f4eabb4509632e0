"""Weights of open_clip's CLIP under the names that transformers' `CLIPModel` gives them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPConfig

from advantageflow.errors import shown

# The tower's own names, open_clip -> transformers
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
VISION = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
# Projections are applied as x @ P there and as a linear layer here
PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


def vit_h_14_config() -> CLIPConfig:
    """The architecture of open_clip's ViT-H-14, which HPSv2.1 and PickScore share."""
    return CLIPConfig(
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "projection_dim": 1024,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
        },
        vision_config={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "hidden_act": "gelu",
            "projection_dim": 1024,
        },
        projection_dim=1024,
    )


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and, where needed, split or transpose the tensors of an open_clip state dict.

    Raises:
        ValueError: a tensor has no counterpart; its name is given.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in TEXT | VISION:
            converted[(TEXT | VISION)[name]] = tensor
        elif name in PROJECTIONS:
            converted[PROJECTIONS[name]] = tensor.T.contiguous()
        elif "transformer.resblocks." in name:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            layer, _, rest = name.rpartition("resblocks.")[2].partition(".")
            converted |= {f"{tower}.encoder.layers.{layer}.{new}": part for new, part in _block(name, rest, tensor)}
        elif name != "attn_mask":  # a constant
            raise ValueError(f"the open_clip tensor {shown(name)} has no counterpart in transformers' CLIPModel")
    return converted


def _block(name: str, rest: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """One tensor of a transformer block; the joint input projection becomes query, key and value."""
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return [(f"self_attn.{part}_proj.{kind}", piece) for part, piece in zip("qkv", tensor.chunk(3), strict=True)]
    module, _, kind = rest.rpartition(".")
    if module not in BLOCK:
        raise ValueError(f"the open_clip tensor {shown(name)} has no counterpart in transformers' CLIPModel")
    return [(f"{BLOCK[module]}.{kind}", tensor)]


def load_into(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Load an open_clip state dict into a `CLIPModel`, every weight of it."""
    missing, unexpected = model.load_state_dict(to_transformers(state), strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]  # constants
    if missing or unexpected:
        raise ValueError(
            f"the open_clip weights do not fit the model: missing {shown(missing)}, unexpected {shown(unexpected)}"
        )
