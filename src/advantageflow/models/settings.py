"""The settings of memory and speed, put on a model that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from advantageflow.errors import ConfigError, shown
from advantageflow.sharding import repeated_blocks

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

VARIANTS = 64  # of a compiled block: five roles, three kinds of blocks, gradients, sizes of batches


def apply_settings(model: FlowModel) -> None:
    """Apply `model.settings`.

    Raises:
        ConfigError: one cannot work with this model.
    """
    settings, transformer = model.settings, model.transformer
    network: Any = transformer
    check_resolution(model)
    torch.backends.cudnn.allow_tf32 = False  # as in matrix products: float32 is float32
    torch.backends.cuda.enable_cudnn_sdp(False)  # its gradients can be NaN (PyTorch's issue 196678), as we saw, too
    if settings.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if settings.quantization == "fp8":
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.dtype)
    if settings.attention:
        try:
            network.set_attention_backend(settings.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"model.attention is {shown(settings.attention)}: {error}") from error
    if settings.compile:
        # a block is compiled for every role, with and without gradients; beyond the limit it would quietly run as it is
        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
        for block in repeated_blocks(transformer):  # every block alone: they share one compilation
            block.compile()
    if settings.vae_slicing:
        model.pipeline.vae.enable_slicing()


def check_resolution(model: FlowModel) -> None:
    """Raise ConfigError where the network cannot see pictures of `model.resolution`."""
    settings = model.settings
    edge = model.scale_factor * model.patch
    sizes = settings.resolution if isinstance(settings.resolution, tuple) else (settings.resolution or edge,)
    if any(size % edge for size in sizes):
        given = list(sizes) if len(sizes) == 2 else sizes[0]
        raise ConfigError(f"model.resolution is {given}; it must be a multiple of {edge}")
    most = model.architecture.get("pos_embed_max_size")  # patches a side
    if most and max(sizes) > most * edge:
        raise ConfigError(
            f"model.resolution is {settings.resolution}; {settings.path} knows positions for at most {most * edge}"
        )
