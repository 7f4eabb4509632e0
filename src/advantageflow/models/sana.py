"""Sana: one latent for 32 x 32 pixels, and prompts that a language model reads behind an instruction."""

from __future__ import annotations

import copy
import inspect

from diffusers import SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.policy import LORA_TARGETS, PROJECTIONS

MAX_TOKENS = 300
INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class SanaModel(FlowModel):
    """Times are the scheduler's own, one for rectified flows; the network is told them as they are, unrounded.

    The instruction stands before every prompt but the empty one, which guidance leads away from.
    """

    pipeline_class = SanaPipeline
    transformer_class = SanaTransformer2DModel
    text_encoders = ("text_encoder",)
    lora_targets = dict.fromkeys(LORA_TARGETS, PROJECTIONS)
    guides_in_one_call = True
    patch = 1

    @property
    def own_size(self) -> int:
        return int(self.architecture.sample_size)

    def encode_prompt(self, prompt: str) -> Conditioning:
        length = self.settings.max_sequence_length or MAX_TOKENS
        instruction = INSTRUCTION if prompt else None
        tokens, mask, _, _ = self.pipeline.encode_prompt(
            [prompt], False, device=self.device, max_sequence_length=length, complex_human_instruction=instruction
        )
        return Conditioning(tokens, None, mask)

    def sigmas(self, num_steps: int) -> Tensor:
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(num_steps)
        found: Tensor = scheduler.sigmas.double()
        return found

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        velocity: Tensor = transformer(
            x_t,
            encoder_hidden_states=prompt.tokens,
            encoder_attention_mask=prompt.mask,
            timestep=timestep * self.architecture.timestep_scale,
            return_dict=False,
        )[0]
        return velocity[:, : self.latent_channels]  # beside it may be a variance

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents: Tensor = vae.encode(pixels.to(vae.dtype)).latent * vae.config.scaling_factor
        return latents
