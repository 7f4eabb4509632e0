"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from advantageflow.models.base import Conditioning
from advantageflow.models.unet import UNetModel


class SD15Model(UNetModel):
    """Without the safety checker, which would blacken pictures before they are scored."""

    pipeline_class = StableDiffusionPipeline
    text_encoders = ("text_encoder",)
    unused = ("safety_checker", "feature_extractor", "image_encoder")

    def encode_prompt(self, prompt: str) -> Conditioning:
        return Conditioning(self.pipeline.encode_prompt([prompt], self.device, 1, False)[0])
