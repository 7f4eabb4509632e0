"""What every model family shares: prompts -> conditioning, (x_t, t) -> velocity, latents -> images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advantageflow import adapters, flow
from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.fits import Fits
from advantageflow.models.conditioning import Conditioning as Conditioning
from advantageflow.models.conditioning import PromptStore
from advantageflow.models.finite import check_decoded
from advantageflow.models.loading import load_pipeline
from advantageflow.models.settings import apply_settings
from advantageflow.models.source import content
from advantageflow.policy import LORA_TARGETS, linear_layers

MAX_CACHED_PROMPTS = 2048
DECODED_AT_ONCE = 32  # on a CPU: more leave its caches, and take a third longer for the same pictures


class FlowModel(ABC):
    """A diffusers pipeline of one family, as the trainer sees it.

    A family's file gives the classes of pipeline and transformer, `encode_prompt`, `predict`, `sigmas` and, where they
    differ, `decode_latents`, `encode_pixels` and `guide`. What is called the transformer may be a U-Net.
    """

    pipeline_class: ClassVar[Any]
    transformer_class: ClassVar[Any]
    network: ClassVar[str] = "transformer"  # its name in the pipeline
    text_encoders: ClassVar[tuple[str, ...]]
    unused: ClassVar[tuple[str, ...]] = ()  # parts of the pipeline that are not loaded
    dispensable: ClassVar[tuple[str, ...]] = ()  # nor these with model.max_sequence_length=0
    lora_targets: ClassVar[Mapping[str, tuple[str, ...]]] = LORA_TARGETS
    patch = 2  # a side of what the network sees as one, in latents
    guides_in_one_call = False  # as the family's pipeline does it, to the bit
    predicts: flow.Predicts = "velocity"  # what `predict` returns, and on which path
    path: flow.Path = flow.RECTIFIED

    def __init__(self, pipeline: Any, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()
        self.pipeline = pipeline
        self.transformer: nn.Module = getattr(pipeline, self.network).eval()
        for part in (pipeline.vae, *self._encoders()):
            part.requires_grad_(False).eval()
        self.fits = Fits()
        self.start: adapters.Adapter | None = None  # what is fused into the base
        self._home: torch.device | None = None
        self._encoded: OrderedDict[str, Conditioning] = OrderedDict()
        apply_settings(self)

    def _encoders(self) -> list[nn.Module]:
        return [part for name in self.text_encoders if (part := getattr(self.pipeline, name, None)) is not None]

    @classmethod
    def load(cls, settings: ModelSettings, device: str, pipeline: Any = None) -> FlowModel:
        """Load from a folder or a hub name, or take a pipeline that is there. Weights come as safetensors only.

        Raises:
            ConfigError: there is no such pipeline, or it cannot be fetched.
        """
        pipeline = pipeline or load_pipeline(cls, settings)
        if isinstance(pipeline.vae, AutoencoderKL):  # faster for its two-dimensional convolutions
            pipeline.vae.to(memory_format=torch.channels_last)
        model = cls(pipeline, settings)
        if settings.lora:
            model._start_from(settings.lora)
        model._home = torch.device(device) if settings.shard else None  # where a part will come, see `sharding`
        model.transformer.to("cpu" if settings.shard else device)
        if not settings.offload:
            for part in (pipeline.vae, *model._encoders()):
                part.to(device)
        return model

    def _start_from(self, source: str) -> None:
        """Fuse an adapter into the base."""
        if self.settings.quantization:
            raise ConfigError("model.lora is fused into the base, which model.quantization is too coarse for; drop one")
        self.start = self._fitted(source)
        adapters.fuse(self.start, self.transformer)

    def load_adapter(self, source: str) -> adapters.Adapter:
        """Put an adapter beside the base weights.

        Raises:
            ConfigError: see `adapters.read_adapters` and `adapters.fit`, or it was trained on another family.
        """
        adapter = self._fitted(source)
        adapters.attach(adapter, self.transformer)
        return adapter

    def load_transformer(self, folder: Path) -> None:
        """Put other weights of the same transformer in the place of its own.

        Raises:
            ConfigError: they cannot be read, or are of another one.
        """
        try:
            found = self.transformer_class.from_pretrained(folder, dtype=self.dtype, use_safetensors=True)
            self.transformer.load_state_dict(found.state_dict())
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"cannot load the weights in {folder}: {' '.join(str(error).split())[:300]}") from error

    def _fitted(self, source: str) -> adapters.Adapter:
        files = adapters.read_adapters(source)
        for file in files:
            adapters.check_about(file, self.family, self.settings.path, self.fingerprint if file.about else None)
        return adapters.added([adapters.fit(file, self.transformer) for file in files])

    def adapted(self, targets: str) -> tuple[str, ...]:
        """Endings of the names of the layers that get adapters; `targets` is a recipe's policy.lora_targets."""
        return linear_layers(self.transformer) if targets == "linear" else self.lora_targets[targets]

    @property
    def family(self) -> str:
        return str(self.pipeline_class.__name__)

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the base's weights, without adapters."""
        settings = self.settings
        return content(settings.path) if settings.base else content(settings.path, self.network)

    @property
    def device(self) -> torch.device:
        return self._home or next(self.transformer.parameters()).device

    @property
    def scale_factor(self) -> int:
        """Pixels along a side of one latent."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        size = self.settings.resolution or self.own_size * self.scale_factor
        height, width = size if isinstance(size, tuple) else (size, size)
        return height // self.scale_factor, width // self.scale_factor

    @property
    def own_size(self) -> int:
        """A side of the latents that the model was trained on."""
        return int(self.pipeline.default_sample_size)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.latent_size
        return height * self.scale_factor, width * self.scale_factor

    @property
    def image_tokens(self) -> int:
        """What the network sees of one image: patches of its latents."""
        return (self.latent_size[0] // self.patch) * (self.latent_size[1] // self.patch)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image's latents."""
        return (self.latent_channels, *self.latent_size)

    @property
    def latent_channels(self) -> int:
        return int(self.architecture.in_channels)

    @property
    def architecture(self) -> Any:
        """The network's configuration."""
        return getattr(self.pipeline, self.network).config

    @contextmanager
    def _awake(self, *parts: nn.Module) -> Iterator[None]:
        """Parts that are kept off the accelerator between uses, on it."""
        if self.settings.offload:
            for part in parts:
                part.to(self.device)
        try:
            yield
        finally:
            if self.settings.offload:
                for part in parts:
                    part.to("cpu")

    def encode(self, prompts: list[str]) -> Conditioning:
        """Embed prompts, each distinct one once and alone, so that its embedding depends on nothing else."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        store = self._store
        stored = {prompt: store.read(prompt, self.device) if store else None for prompt in new}
        missing = [prompt for prompt in new if stored[prompt] is None]
        if missing:
            with torch.no_grad(), self._awake(*self._encoders()):
                for prompt in missing:
                    stored[prompt] = found = self.encode_prompt(prompt)
                    if store:
                        store.write(prompt, found)
        self._encoded.update(stored)  # type: ignore[arg-type]
        for prompt in prompts:
            self._encoded.move_to_end(prompt)
        found = Conditioning.join([self._encoded[prompt] for prompt in prompts])
        while len(self._encoded) > MAX_CACHED_PROMPTS:
            self._encoded.popitem(last=False)
        return found

    @cached_property
    def _store(self) -> PromptStore | None:
        return PromptStore.of(self.settings, self.text_encoders)

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """Embed one prompt."""

    @abstractmethod
    def sigmas(self, num_steps: int) -> Tensor:
        """The family's sampling times, float64 [num_steps + 1], from 1 to 0."""

    @abstractmethod
    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        """One call of the transformer: what it `predicts` [batch, ...]; see `timestep`."""

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
        until: Tensor | None = None,
    ) -> Tensor:
        """v(x_t, t | prompt) [batch, ...] for t a scalar or [batch] in [0, 1].

        With guidance, v(empty) + scale (v(prompt) - v(empty)); 1 is no guidance and costs half. Latents and the result
        are float32, whatever the precision of the network.

        A model of average velocities answers with that from t until another time, like t; others take no notice of it.
        """
        timestep = self.timestep(t, t if until is None else until, x_t)
        predicted = self._guided(transformer, x_t, timestep, prompt, guidance_scale, empty_prompt)
        return self.path.velocity_of(self.predicts, predicted, x_t, t)

    def ends(
        self,
        transformer: nn.Module,
        x_t: Tensor,
        t: Tensor,
        prompt: Conditioning,
        *,
        guidance_scale: float = 1.0,
        empty_prompt: Conditioning | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The clean image and the noise of the same prediction as `velocity`'s, [batch, ...] each."""
        predicted = self._guided(transformer, x_t, self.timestep(t, t, x_t), prompt, guidance_scale, empty_prompt)
        return self.path.ends(self.predicts, predicted, x_t, t)

    def timestep(self, t: Tensor, until: Tensor, x_t: Tensor) -> Tensor:
        """What the transformer is told of times: 1000 t, float32 [batch]."""
        return (t * 1000).to(torch.float32).to(x_t.device).expand(len(x_t))

    def _guided(
        self,
        transformer: nn.Module,
        x_t: Tensor,
        timestep: Tensor,
        prompt: Conditioning,
        guidance_scale: float,
        empty_prompt: Conditioning | None,
    ) -> Tensor:
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
        """`predict` in the network's precision."""
        return self.predict(transformer, x_t.to(self.dtype), timestep, prompt).float()

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
        parts = latents.split(DECODED_AT_ONCE if self.device.type == "cpu" else len(latents))
        return torch.cat([self._in_parts("decoding", part, self.decode_with_gradient) for part in parts])

    def decode_with_gradient(self, latents: Tensor) -> Tensor:
        """`decode`, differentiable where a latent has a gradient.

        Then a VAE that is kept off the accelerator stays there for the backward pass, until the next `decode`; and one
        that decodes an image at a time keeps no activations, but computes those of each image again.
        """
        vae = self.pipeline.vae
        if not (torch.is_grad_enabled() and latents.requires_grad):
            with self._awake(vae):
                images = self.decode_latents(latents)
        else:
            vae.to(self.device)
            parts = latents.split(1) if self.settings.vae_slicing else ()
            again = [checkpoint(self.decode_latents, part, use_reentrant=False) for part in parts]
            images = torch.cat(again) if again else self.decode_latents(latents)
        check_decoded(images, latents)  # before the clamp, which makes 1 of infinity
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """The decoder's own output, in [-1, 1] or somewhat beyond: [batch, 3, height, width]."""
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return images

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images in [0, 1], [batch, 3, height, width] -> latents, float32 [batch, *latent_shape]: what `decode` undoes.

        Where the encoder tells a distribution, its mode.

        Raises:
            NonFiniteError: latents are NaN or infinite.
            ValueError: the images are not of the model's size.
        """
        if images.shape[1:] != (3, *self.picture_size):
            raise ValueError(f"expected images [batch, 3, {self.picture_size}], got {list(images.shape)}")
        with self._awake(self.pipeline.vae):
            latents = self._in_parts(
                "encoding", images, lambda part: self.encode_pixels(2 * part.to(self.device, torch.float32) - 1).float()
            )
        if not torch.isfinite(latents).all():
            raise NonFiniteError(
                "the encoder made latents that are NaN or infinite; use model.dtype=float32 or bfloat16"
            )
        return latents

    def _in_parts(self, kind: str, batch: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """What work makes of a batch, of as much of it at once as fits."""
        found = self.fits.parts(kind, range(len(batch)), lambda part: work(batch[part.start : part.stop]))
        return torch.cat([done for _, done in found])

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The inverse of `decode_latents`: pixels in [-1, 1], [batch, 3, height, width]."""
        vae = self.pipeline.vae
        mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        latents: Tensor = (mode - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor
        return latents

    def save_lora(
        self, directory: Path, lora: Mapping[str, Tensor], about: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Export an adapter that the pipeline's `load_lora_weights(directory)` reads, for the base without any other.

        Args:
            about: what its file says of itself, beside its family and base.

        Raises:
            NonFiniteError: a weight is NaN or infinite; nothing is written.
        """
        if self.start is not None:  # the two as one
            lora = adapters.join([self.start, adapters.of_factors("this run's", lora)])
        rank = max(len(weight) for name, weight in lora.items() if ".lora_A." in name)
        base = {"family": self.family, "base_model": self.settings.path, "base_fingerprint": self.fingerprint}
        adapters.write_adapter(directory, lora, {**base, **about, "rank": rank}, self.network)
