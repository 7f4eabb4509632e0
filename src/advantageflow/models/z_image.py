"""Z-Image: prompts and patches in one stream, each as long as it is."""

from __future__ import annotations

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from torch import Tensor, nn

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.models.shift import shifted_sigmas
from advantageflow.policy import LORA_TARGETS, PROJECTIONS

MAX_TOKENS = 512
SHIFTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


class ZImageModel(FlowModel):
    """A guidance scale of 1 is none, as elsewhere; the pipeline counts from 0."""

    pipeline_class = ZImagePipeline
    transformer_class = ZImageTransformer2DModel
    text_encoders = ("text_encoder",)
    lora_targets = dict.fromkeys(LORA_TARGETS, PROJECTIONS)
    guides_in_one_call = True

    @property
    def own_size(self) -> int:
        return 1024 // self.scale_factor

    def encode_prompt(self, prompt: str) -> Conditioning:
        length = self.settings.max_sequence_length or MAX_TOKENS
        (tokens,), _ = self.pipeline.encode_prompt([prompt], self.device, False, max_sequence_length=length)
        return Conditioning(tokens[None], None, torch.ones(1, len(tokens), dtype=torch.long, device=tokens.device))

    def sigmas(self, num_steps: int) -> Tensor:
        scheduler = self.pipeline.scheduler
        mu = calculate_shift(self.image_tokens, *(scheduler.config.get(name, own) for name, own in SHIFTS.items()))
        return shifted_sigmas(scheduler, torch.linspace(1.0, 1 / num_steps, num_steps).tolist(), mu)

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        assert prompt.mask is not None
        tokens = [row[mask.bool()] for row, mask in zip(prompt.tokens, prompt.mask, strict=True)]
        found = transformer(list(x_t.unsqueeze(2)), (1000 - timestep) / 1000, tokens, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)

    def guide(self, without: Tensor, conditioned: Tensor, scale: float) -> Tensor:
        return conditioned + (scale - 1) * (conditioned - without)
