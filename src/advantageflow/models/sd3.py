"""Stable Diffusion 3 and 3.5, and the built-in model of the same architecture."""

from __future__ import annotations

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from advantageflow.flow import sd3_sigmas
from advantageflow.models.base import Conditioning, FlowModel

T5_TOKENS = 128


class SD3Model(FlowModel):
    """With T5 or without, as the network was trained; 0 tokens of T5 spare its zeros, and are those of CLIP alone."""

    pipeline_class = StableDiffusion3Pipeline
    transformer_class = SD3Transformer2DModel
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    dispensable = ("text_encoder_3", "tokenizer_3")
    guides_in_one_call = True

    def encode_prompt(self, prompt: str) -> Conditioning:
        length = self.settings.max_sequence_length
        if length is None:
            length = 0 if self.pipeline.text_encoder_3 is None else T5_TOKENS
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            [prompt], None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return Conditioning(tokens, pooled)

    def sigmas(self, num_steps: int) -> Tensor:
        return sd3_sigmas(num_steps, self.pipeline.scheduler.config.shift)

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        velocity: Tensor = transformer(x_t, prompt.tokens, prompt.pooled, timestep, return_dict=False)[0]
        return velocity
