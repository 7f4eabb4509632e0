"""What every model family shares: prompts -> conditioning, (x_t, t) -> velocity, latents -> images."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from advantageflow.config import ConfigError, ModelSettings
from advantageflow.errors import NonFiniteError

MAX_CACHED_PROMPTS = 2048


@dataclass(frozen=True)
class Conditioning:
    """What the transformer sees of prompts.

    tokens: embeddings [batch, tokens, width]; pooled: [batch, width] where the family has one; mask: [batch, tokens], 1
    for real tokens, where lengths differ.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def expand(self, batch: int) -> Conditioning:
        """One prompt's embeddings for a whole batch."""
        return Conditioning(*(None if part is None else part.expand(batch, *part.shape[1:]) for part in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.tokens, self.pooled, self.mask

    @staticmethod
    def join(found: list[Conditioning]) -> Conditioning:
        """Several as one batch; shorter ones are padded with zeros that the mask leaves out."""
        longest = max(one.tokens.shape[1] for one in found)
        tokens = torch.cat([pad(one.tokens, (0, 0, 0, longest - one.tokens.shape[1])) for one in found])
        pooled = None if found[0].pooled is None else torch.cat([one.pooled for one in found if one.pooled is not None])
        mask = None
        if found[0].mask is not None:
            mask = torch.cat([pad(one.mask, (0, longest - one.mask.shape[1])) for one in found if one.mask is not None])
        return Conditioning(tokens, pooled, mask)


class FlowModel(ABC):
    """A diffusers pipeline of one family, as the trainer sees it.

    A family's file gives the pipeline class, `encode_prompt`, `predict`, `sigmas` and, where they differ,
    `decode_latents` and `guide`.
    """

    pipeline_class: ClassVar[Any]
    text_encoders: ClassVar[tuple[str, ...]]
    guides_in_one_call = False  # as the family's pipeline does it, to the bit

    def __init__(self, pipeline: Any, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()
        self.pipeline = pipeline
        self.transformer: nn.Module = pipeline.transformer.eval()
        for part in (pipeline.vae, *self._encoders()):
            part.requires_grad_(False).eval()
        self.scale_factor: int = pipeline.vae_scale_factor
        self._encoded: OrderedDict[str, Conditioning] = OrderedDict()
        self._set_up()

    def _encoders(self) -> list[nn.Module]:
        found = (getattr(self.pipeline, name, None) for name in self.text_encoders)
        return [encoder for encoder in found if encoder is not None]

    def _set_up(self) -> None:
        """Apply the memory and speed settings."""
        settings, transformer = self.settings, self.transformer
        edge = self.scale_factor * 2  # latents are cut into patches of 2 x 2
        if settings.resolution is not None and settings.resolution % edge:
            raise ConfigError(f"model.resolution is {settings.resolution}; it must be a multiple of {edge}")
        if settings.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()  # type: ignore[operator]
        if settings.attention:
            try:
                transformer.set_attention_backend(settings.attention)  # type: ignore[operator]
            except (ValueError, RuntimeError, ImportError) as error:
                raise ConfigError(f"model.attention is {settings.attention!r}: {error}") from error
        if settings.compile:
            for part in list(transformer.modules()):  # every block alone: they share one compilation
                if type(part).__name__.endswith("TransformerBlock"):
                    part.compile()
        if settings.vae_slicing:
            self.pipeline.vae.enable_slicing()

    @classmethod
    def load(cls, settings: ModelSettings, device: str) -> FlowModel:
        """Load from a folder or a hub name. Weights come as safetensors only.

        Raises:
            ConfigError: there is no such pipeline, or it cannot be fetched.
        """
        dtype = getattr(torch, settings.dtype)
        given: dict[str, Any] = {}
        index = Path(settings.path) / "model_index.json"
        if index.is_file():  # diffusers wants to be told which parts are meant to be absent
            parts = json.loads(index.read_text())
            given = {name: None for name, value in parts.items() if value == [None, None]}
        try:
            if settings.quantization:
                given["transformer"] = _load_quantized(cls, settings, dtype)
            pipeline = cls.pipeline_class.from_pretrained(settings.path, dtype=dtype, use_safetensors=True, **given)
        except (OSError, ImportError) as error:
            raise ConfigError(f"cannot load the model {settings.path!r}: {' '.join(str(error).split())}") from error
        if isinstance(pipeline.vae, AutoencoderKL):  # faster for its two-dimensional convolutions
            pipeline.vae.to(memory_format=torch.channels_last)
        model = cls(pipeline, settings)
        model.transformer.to(device)
        if not settings.offload:
            for part in (pipeline.vae, *model._encoders()):
                part.to(device)
        return model

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def latent_size(self) -> int:
        """Height and width of the latents."""
        resolution = self.settings.resolution
        return resolution // self.scale_factor if resolution else int(self.pipeline.default_sample_size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image's latents."""
        return (self.latent_channels, self.latent_size, self.latent_size)

    @property
    def latent_channels(self) -> int:
        channels: int = self.pipeline.transformer.config.in_channels
        return channels

    @contextmanager
    def _awake(self, *parts: nn.Module) -> Iterator[None]:
        """Parts that are kept off the accelerator between uses, on it."""
        if self.settings.offload:
            for part in parts:
                part.to(self.device)
        yield
        if self.settings.offload:
            for part in parts:
                part.to("cpu")

    def encode(self, prompts: list[str]) -> Conditioning:
        """Embed prompts, each distinct one once and alone, so that its embedding depends on nothing else."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        stored = {prompt: self._read(prompt) for prompt in new}
        missing = [prompt for prompt in new if stored[prompt] is None]
        if missing:
            with torch.no_grad(), self._awake(*self._encoders()):
                for prompt in missing:
                    stored[prompt] = self.encode_prompt(prompt)
                    self._write(prompt, stored[prompt])
        self._encoded.update(stored)  # type: ignore[arg-type]
        for prompt in prompts:
            self._encoded.move_to_end(prompt)
        found = Conditioning.join([self._encoded[prompt] for prompt in prompts])
        while len(self._encoded) > MAX_CACHED_PROMPTS:
            self._encoded.popitem(last=False)
        return found

    def _cache_file(self, prompt: str) -> Path | None:
        """Where a prompt's embedding is kept: its name is a fingerprint of model, precision, length and prompt."""
        settings = self.settings
        if settings.prompt_cache is None:
            return None
        key = json.dumps([settings.path, settings.dtype, settings.max_sequence_length, prompt])
        return Path(settings.prompt_cache) / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _read(self, prompt: str) -> Conditioning | None:
        file = self._cache_file(prompt)
        if file is None or not file.is_file():
            return None
        return Conditioning(**load_file(file, device=str(self.device)))

    def _write(self, prompt: str, found: Conditioning | None) -> None:
        file = self._cache_file(prompt)
        if file is None or found is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = {"tokens": found.tokens, "pooled": found.pooled, "mask": found.mask}
        temporary = file.with_suffix(".part")
        save_file({name: part.contiguous() for name, part in parts.items() if part is not None}, temporary)
        temporary.replace(file)

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """Embed one prompt."""

    @abstractmethod
    def sigmas(self, num_steps: int) -> Tensor:
        """The family's sampling times, float64 [num_steps + 1], from 1 to 0."""

    @abstractmethod
    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        """One call of the transformer: the velocity [batch, ...]; `timestep` is 1000 t, float32 [batch]."""

    def guide(self, without: Tensor, conditioned: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance."""
        return without + scale * (conditioned - without)

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

        With guidance, v(empty) + scale (v(prompt) - v(empty)); 1 is no guidance and costs half. Latents and the result
        are float32, whatever the precision of the network.
        """
        timestep = (t.to(x_t.device) * 1000).to(torch.float32).expand(len(x_t))
        if guidance_scale == 1.0 or empty_prompt is None:
            return self._predict(transformer, x_t, timestep, prompt)
        empty_prompt = empty_prompt.expand(len(x_t))
        if self.guides_in_one_call:
            both = Conditioning.join([empty_prompt, prompt])
            found = self._predict(transformer, torch.cat([x_t, x_t]), torch.cat([timestep, timestep]), both)
            without, conditioned = found.chunk(2)
        else:
            conditioned = self._predict(transformer, x_t, timestep, prompt)
            without = self._predict(transformer, x_t, timestep, empty_prompt)
        return self.guide(without, conditioned, guidance_scale)

    def _predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        """`predict` in the network's precision, with adapters in float32."""
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            return self.predict(transformer, x_t.to(self.dtype) if half else x_t, timestep, prompt).float()

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.settings.dtype)
        return dtype

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [batch, channels, height, width] -> images, float32 in [0, 1], [batch, 3, height, width].

        Raises:
            NonFiniteError: a picture is NaN or infinite, so that no reward, grid or file ever has one.
        """
        with self._awake(self.pipeline.vae):
            images = self.decode_latents(latents)
        finite = torch.isfinite(images.flatten(1)).all(1)  # before the clamp, which makes 1 of infinity
        if not finite.all():
            where = "decoder" if torch.isfinite(latents).all() else "network"
            raise NonFiniteError(
                f"{int((~finite).sum())} of {len(images)} pictures are NaN or infinite, from the {where} on; "
                "use model.dtype=float32 or bfloat16, a lower learn.learning_rate, or another model or adapter"
            )
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """The decoder's own output, in [-1, 1] or somewhat beyond: [batch, 3, height, width]."""
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return images

    def save_lora(self, directory: Path, lora: dict[str, Tensor]) -> None:
        """Export an adapter that the pipeline's `load_lora_weights(directory)` reads."""
        self.pipeline_class.save_lora_weights(directory, transformer_lora_layers=lora)


def dynamic_shift_sigmas(scheduler: Any, num_steps: int, image_tokens: int) -> Tensor:
    """The sampling times of pipelines that shift more for larger images, float64 [num_steps + 1]."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    limits = {name: scheduler.config[name] for name in names if name in scheduler.config}
    mu = calculate_shift(image_tokens, *limits.values())
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)
    sigmas: Tensor = scheduler.sigmas.double()
    return sigmas


def _load_quantized(family: type[FlowModel], settings: ModelSettings, dtype: torch.dtype) -> Any:
    """The transformer in 4 or 8 bits; needs bitsandbytes and CUDA."""
    from diffusers import AutoModel, BitsAndBytesConfig

    options: dict[str, Any] = {"load_in_8bit": True}
    if settings.quantization == "4bit":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return AutoModel.from_pretrained(
        settings.path,
        subfolder="transformer",
        quantization_config=BitsAndBytesConfig(**options),
        dtype=dtype,
        use_safetensors=True,
    )
