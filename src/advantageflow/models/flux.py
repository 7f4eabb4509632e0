"""FLUX.1: guidance-distilled (dev) or not (schnell), with a time shift that grows with the number of pixels."""

from __future__ import annotations

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.models.shift import dynamic_shift_sigmas

T5_TOKENS = 512


class FluxModel(FlowModel):
    """`model.distilled_guidance` is what the network is told; `guidance_scale` is classifier-free guidance."""

    pipeline_class = FluxPipeline
    transformer_class = FluxTransformer2DModel
    text_encoders = ("text_encoder", "text_encoder_2")

    @property
    def latent_channels(self) -> int:
        return super().latent_channels // 4  # the network sees patches of 2 x 2

    def encode_prompt(self, prompt: str) -> Conditioning:
        length = self.settings.max_sequence_length or T5_TOKENS
        tokens, pooled, _ = self.pipeline.encode_prompt([prompt], None, device=self.device, max_sequence_length=length)
        return Conditioning(tokens, pooled)

    def sigmas(self, num_steps: int) -> Tensor:
        return dynamic_shift_sigmas(self.pipeline.scheduler, num_steps, self.image_tokens)

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        height, width = self.latent_size
        guidance = None
        if self.architecture.guidance_embeds:
            guidance = torch.full((len(x_t),), self.settings.distilled_guidance, device=x_t.device)
        velocity = transformer(
            hidden_states=pack(x_t),
            timestep=timestep / 1000,
            guidance=guidance,
            pooled_projections=prompt.pooled,
            encoder_hidden_states=prompt.tokens,
            txt_ids=torch.zeros(prompt.tokens.shape[1], 3, device=x_t.device, dtype=x_t.dtype),
            img_ids=self.pipeline._prepare_latent_image_ids(1, height // 2, width // 2, x_t.device, x_t.dtype),
            return_dict=False,
        )[0]
        return unpack(velocity, self.latent_size)


def pack(latents: Tensor) -> Tensor:
    """[batch, channels, height, width] -> one token per patch of 2 x 2: [batch, patches, 4 channels]."""
    patches = latents.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # batch, channels, rows, 2, columns, 2
    tokens: Tensor = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return tokens


def unpack(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `pack` for latents of this height and width."""
    patches = tokens.unflatten(1, (size[0] // 2, size[1] // 2)).unflatten(3, (-1, 2, 2))
    latents: Tensor = patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return latents
