"""Stable Diffusion 3 and 3.5, and the built-in model of the same architecture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from advantageflow.config import ConfigError
from advantageflow.flow import sd3_sigmas
from advantageflow.policy import SD3_TARGETS

MAX_CACHED_PROMPTS = 2048


@dataclass(frozen=True)
class Conditioning:
    """What the transformer sees of prompts: token embeddings [batch, tokens, width] and pooled [batch, width]."""

    tokens: Tensor
    pooled: Tensor

    def expand(self, batch: int) -> Conditioning:
        """One prompt's embeddings for a whole batch."""
        return Conditioning(self.tokens.expand(batch, -1, -1), self.pooled.expand(batch, -1))


class SD3Model:
    """An SD3 pipeline seen by the trainer: prompts -> conditioning, (x_t, t) -> velocity, latents -> images.

    Args:
        pipeline: with or without T5.
        max_sequence_length: text tokens of T5. A pipeline without T5 fills them with zeros; 0 spares that work.
    """

    lora_targets = SD3_TARGETS

    def __init__(self, pipeline: StableDiffusion3Pipeline, max_sequence_length: int | None = None) -> None:
        if max_sequence_length is None:
            max_sequence_length = 0 if pipeline.text_encoder_3 is None else 128
        self.pipeline = pipeline
        self.max_sequence_length = max_sequence_length
        self.transformer: nn.Module = pipeline.transformer.eval()
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3):
            if part is not None:
                part.requires_grad_(False).eval()
        config = pipeline.transformer.config
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self._encoded: OrderedDict[str, Conditioning] = OrderedDict()

    @classmethod
    def load(cls, path: str, dtype: str = "float32", device: str = "cpu") -> SD3Model:
        """Load from a folder or a hub name. Weights come as safetensors only.

        Raises:
            ConfigError: there is no such pipeline, or it cannot be fetched.
        """
        absent = {}
        index = Path(path) / "model_index.json"
        if index.is_file() and '"text_encoder_3": [\n    null' in index.read_text():
            absent = {"text_encoder_3": None, "tokenizer_3": None}
        try:
            pipeline = StableDiffusion3Pipeline.from_pretrained(
                path, dtype=getattr(torch, dtype), use_safetensors=True, **absent
            )
        except OSError as error:
            raise ConfigError(f"cannot load the model {path!r}: {' '.join(str(error).split())}") from error
        pipeline.vae.to(memory_format=torch.channels_last)
        return cls(pipeline.to(device))

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    def encode(self, prompts: list[str]) -> Conditioning:
        """Embed prompts, each distinct one once and alone, so that its embedding depends on nothing else."""
        found = []
        for prompt in prompts:
            if prompt not in self._encoded:
                self._encoded[prompt] = self._encode(prompt)
            self._encoded.move_to_end(prompt)
            found.append(self._encoded[prompt])
        while len(self._encoded) > MAX_CACHED_PROMPTS:
            self._encoded.popitem(last=False)
        return Conditioning(torch.cat([one.tokens for one in found]), torch.cat([one.pooled for one in found]))

    @torch.no_grad()
    def _encode(self, prompt: str) -> Conditioning:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            [prompt], None, None, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return Conditioning(tokens, pooled)

    def sigmas(self, num_steps: int) -> Tensor:
        """The sampling times, float64 [num_steps + 1]."""
        return sd3_sigmas(num_steps, self.pipeline.scheduler.config.shift)

    def velocity(
        self,
        transformer: nn.Module,
        x_t: Tensor,
        t: Tensor,
        prompt: Conditioning,
        *,
        guidance_scale: float = 1.0,
        empty_prompt: Conditioning | None = None,
    ) -> Tensor:
        """v(x_t, t | prompt) [batch, ...] for t a scalar or [batch] in [0, 1].

        With guidance, v(empty) + scale (v(prompt) - v(empty)); 1 is no guidance and costs half.
        """
        timestep = (t.to(x_t.device) * 1000).to(torch.float32).expand(len(x_t))
        if guidance_scale == 1.0 or empty_prompt is None:
            velocity: Tensor = transformer(x_t, prompt.tokens, prompt.pooled, timestep, return_dict=False)[0]
            return velocity
        empty = empty_prompt.expand(len(x_t))
        both: Tensor = transformer(
            torch.cat([x_t, x_t]),
            torch.cat([empty.tokens, prompt.tokens]),
            torch.cat([empty.pooled, prompt.pooled]),
            torch.cat([timestep, timestep]),
            return_dict=False,
        )[0]
        without, conditioned = both.chunk(2)
        return without + guidance_scale * (conditioned - without)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [batch, channels, height, width] -> images, float32 in [0, 1], [batch, 3, height, width]."""
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def save_lora(self, directory: Path, lora: dict[str, Tensor]) -> None:
        """Export an adapter that `StableDiffusion3Pipeline.load_lora_weights(directory)` reads."""
        StableDiffusion3Pipeline.save_lora_weights(directory, transformer_lora_layers=lora)
