"""FLUX.2, dev and klein: patches are latents of their own, and prompts are three layers of a language model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.models.shift import shifted_sigmas
from advantageflow.policy import LORA_TARGETS

MAX_TOKENS = 512


class Flux2KleinModel(FlowModel):
    """A latent is a patch of 2 x 2 of the VAE's, in units of the VAE's running statistics."""

    pipeline_class = Flux2KleinPipeline
    transformer_class = Flux2Transformer2DModel
    text_encoders = ("text_encoder",)
    patch = 1

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """The blocks of one stream have fused layers, of which the last has the name of a list elsewhere."""
        single = range(self.architecture.num_single_layers)
        fused = ("attn.to_qkv_mlp_proj", *(f"single_transformer_blocks.{i}.attn.to_out" for i in single))
        return {kind: (*names, *fused) for kind, names in LORA_TARGETS.items()}

    @property
    def scale_factor(self) -> int:
        return 2 * super().scale_factor

    @property
    def own_size(self) -> int:
        return super().own_size // 2

    def encode_prompt(self, prompt: str) -> Conditioning:
        length = self.settings.max_sequence_length or MAX_TOKENS
        return Conditioning(self.pipeline.encode_prompt([prompt], self.device, max_sequence_length=length)[0])

    def sigmas(self, num_steps: int) -> Tensor:
        mu = compute_empirical_mu(self.image_tokens, num_steps)
        return shifted_sigmas(self.pipeline.scheduler, np.linspace(1.0, 1 / num_steps, num_steps), mu)

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        places = self.pipeline._prepare_text_ids(prompt.tokens), self.pipeline._prepare_latent_ids(x_t)
        tokens: Tensor = transformer(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=timestep / 1000,
            guidance=self.told(x_t),
            encoder_hidden_states=prompt.tokens,
            txt_ids=places[0].to(x_t.device),
            img_ids=places[1].to(x_t.device),
            return_dict=False,
        )[0]
        velocity: Tensor = tokens.transpose(1, 2).unflatten(2, self.latent_size)
        return velocity

    def told(self, x_t: Tensor) -> Tensor | None:
        """The guidance scale of a network that is distilled to it."""
        return None

    def decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, std = self._statistics(latents)
        images: Tensor = vae.decode(pixel_shuffle(latents * std + mean, 2).to(vae.dtype), return_dict=False)[0]
        return images

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mode: Tensor = pixel_unshuffle(vae.encode(pixels.to(vae.dtype)).latent_dist.mode(), 2)
        mean, std = self._statistics(mode)
        return (mode - mean) / std

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel."""
        vae = self.pipeline.vae
        mean, variance = (
            part.view(-1, 1, 1).to(latents.device, latents.dtype) for part in (vae.bn.running_mean, vae.bn.running_var)
        )
        return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


class Flux2Model(Flux2KleinModel):
    """`model.distilled_guidance` is what the network is told; `guidance_scale` is classifier-free guidance."""

    pipeline_class = Flux2Pipeline

    def told(self, x_t: Tensor) -> Tensor:
        return torch.full((len(x_t),), self.settings.distilled_guidance, device=x_t.device)
