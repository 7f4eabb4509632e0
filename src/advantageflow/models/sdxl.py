"""Stable Diffusion XL: two text encoders, and the network is told the picture's size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from advantageflow.config import ModelSettings
from advantageflow.models.base import Conditioning
from advantageflow.models.unet import UNetModel


class SDXLModel(UNetModel):
    """Pictures are said to be whole and of the size that they are drawn in."""

    pipeline_class = StableDiffusionXLPipeline
    text_encoders = ("text_encoder", "text_encoder_2")
    unused = ("feature_extractor", "image_encoder")

    def __init__(self, pipeline: Any, settings: ModelSettings | None = None) -> None:
        super().__init__(pipeline, settings)
        if self.settings.dtype == "float16" and pipeline.vae.config.force_upcast:  # it would overflow
            pipeline.vae.to(torch.float32)

    def encode_prompt(self, prompt: str) -> Conditioning:
        tokens, _, pooled, _ = self.pipeline.encode_prompt([prompt], None, self.device, 1, False)
        if not prompt and self.pipeline.config.force_zeros_for_empty_prompt:
            tokens, pooled = torch.zeros_like(tokens), torch.zeros_like(pooled)
        return Conditioning(tokens, pooled)

    def added(self, x_t: Tensor, prompt: Conditioning) -> dict[str, Tensor]:
        assert prompt.pooled is not None
        size = self.picture_size
        told = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=x_t.device)
        return {"text_embeds": prompt.pooled, "time_ids": told.expand(len(x_t), -1)}
