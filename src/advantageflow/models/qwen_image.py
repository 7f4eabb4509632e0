"""Qwen-Image: prompts of any length through a language model, and guidance that keeps the velocity's norm."""

from __future__ import annotations

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.models.flux import pack, unpack
from advantageflow.models.shift import dynamic_shift_sigmas

MAX_TOKENS = 512


class QwenImageModel(FlowModel):
    pipeline_class = QwenImagePipeline
    transformer_class = QwenImageTransformer2DModel
    text_encoders = ("text_encoder",)

    @property
    def latent_channels(self) -> int:
        return super().latent_channels // 4  # the network sees patches of 2 x 2

    def encode_prompt(self, prompt: str) -> Conditioning:
        tokens, mask = self.pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.settings.max_sequence_length or MAX_TOKENS
        )
        if mask is None:  # all tokens are real
            mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return Conditioning(tokens, None, mask)

    def sigmas(self, num_steps: int) -> Tensor:
        return dynamic_shift_sigmas(self.pipeline.scheduler, num_steps, self.image_tokens)

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        height, width = self.latent_size
        assert prompt.mask is not None
        velocity = transformer(
            hidden_states=pack(x_t),
            timestep=timestep / 1000,
            encoder_hidden_states=prompt.tokens,
            encoder_hidden_states_mask=None if prompt.mask.all() else prompt.mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
            return_dict=False,
        )[0]
        return unpack(velocity, self.latent_size)

    def guide(self, without: Tensor, conditioned: Tensor, scale: float) -> Tensor:
        """Guidance, scaled back to the norm of the conditioned velocity of each patch."""
        without, conditioned = pack(without), pack(conditioned)
        guided = super().guide(without, conditioned, scale)
        norms = (torch.norm(velocity, dim=-1, keepdim=True) for velocity in (conditioned, guided))
        return unpack(guided * (next(norms) / next(norms)), self.latent_size)

    def decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, std = self._statistics(latents)
        frames = (latents / (1 / std) + mean).unsqueeze(2).to(vae.dtype)
        raw: list[Tensor] = []
        hook = vae.decoder.register_forward_hook(lambda module, given, found: raw.append(found))
        try:
            images: Tensor = vae.decode(frames, return_dict=False)[0]  # clamps, which would make 1 of infinity
        finally:  # a checkpoint computes again only as far as it must, and leaves by an exception
            hook.remove()
        decoded = torch.cat(raw)
        return torch.where(torch.isfinite(decoded), images, decoded)[:, :, 0]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mode: Tensor = vae.encode(pixels.unsqueeze(2).to(vae.dtype)).latent_dist.mode()[:, :, 0]
        mean, std = self._statistics(mode)
        return (mode - mean) / std

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel."""
        config = self.pipeline.vae.config
        mean, std = (
            torch.tensor(values, device=latents.device).view(-1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std
