"""Average velocities (MeanFlow, arXiv 2505.13447): an SD3 pipeline's transformer that is told a second time.

Its folder holds what it adds to the pipeline it stands on, which its index names: an adapter, fused when it is loaded,
and the weights of the second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advantageflow.adapters import fuse, of_factors
from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.fingerprint import of_value
from advantageflow.flow import Predicts, shift_t
from advantageflow.models.base import FlowModel
from advantageflow.models.loading import load_pipeline
from advantageflow.models.sd3 import SD3Model
from advantageflow.models.source import AVERAGE_VELOCITY, INDEX, content, locate, stands_on

FILE = "mean_flow.safetensors"
SPAN = "time_text_embed.span.weight"


class SpanEmbedding(CombinedTimestepTextProjEmbeddings):  # type: ignore[misc]
    """Embeds a time and the length of a span that ends there, both in thousandths: timestep [batch, 2]."""

    def __init__(self, width: int, pooled_width: int) -> None:
        super().__init__(width, pooled_width)
        self.span = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.span.weight)

    def forward(self, timestep: Tensor, pooled_projection: Tensor) -> Tensor:
        t, length = timestep.unbind(-1)
        embedded: Tensor = self.timestep_embedder(self.time_proj(length).to(pooled_projection.dtype))
        both: Tensor = super().forward(t, pooled_projection) + self.span(embedded)
        return both


class MeanFlowTransformer(SD3Transformer2DModel):  # type: ignore[misc]
    """SD3's transformer whose timestep is [batch, 2], see `SpanEmbedding`."""

    @wraps(SD3Transformer2DModel.__init__)  # type: ignore[misc]  # its configuration reads the names of the settings
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.time_text_embed = SpanEmbedding(self.inner_dim, self.config.pooled_projection_dim)

    @classmethod
    def of(cls, plain: SD3Transformer2DModel) -> MeanFlowTransformer:
        """With the weights of a transformer that knows no second time, of which it takes no notice yet."""
        made: MeanFlowTransformer = cls.from_config(plain.config)
        made.load_state_dict({**plain.state_dict(), SPAN: made.time_text_embed.span.weight})
        # diffusers' own `to` warns of parts that it keeps in float32, of which there are none
        return nn.Module.to(made, plain.dtype)


class MeanFlowModel(SD3Model):
    """u(x_t, t, r), so that x_r = x_t - (t - r) u in one step; over a span of no length it is the velocity."""

    transformer_class = MeanFlowTransformer
    predicts: Predicts = "average_velocity"

    @classmethod
    def load(cls, settings: ModelSettings, device: str, pipeline: Any = None) -> FlowModel:
        if settings.quantization:
            raise ConfigError("model.quantization is too coarse for the adapter of an average velocity; set it to null")
        if pipeline is None:
            pipeline = load_pipeline(SD3Model, settings)
            transformer = MeanFlowTransformer.of(pipeline.transformer)
            _add(Path(locate(settings.path)), transformer)
            pipeline.register_modules(transformer=transformer)
        return super().load(settings, device, pipeline)

    @property
    def family(self) -> str:
        return AVERAGE_VELOCITY

    @cached_property
    def fingerprint(self) -> str | None:
        settings = self.settings
        return of_value([content(settings.path), content(stands_on(settings), "transformer")])

    def sigmas(self, num_steps: int) -> Tensor:
        """Evenly spaced and shifted; SD3's own times end with a step from almost 0, which few steps cannot spare."""
        return shift_t(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), self.pipeline.scheduler.config.shift)

    def timestep(self, t: Tensor, until: Tensor, x_t: Tensor) -> Tensor:
        return torch.stack([super().timestep(t, until, x_t), super().timestep(t - until, until, x_t)], 1)


def _add(folder: Path, transformer: MeanFlowTransformer) -> None:
    """Put what a folder holds into a transformer.

    Raises:
        ConfigError: it is damaged, or of another transformer.
    """
    try:
        tensors = load_file(folder / FILE)
        span, weight = tensors.pop(SPAN), transformer.time_text_embed.span.weight
        with torch.no_grad():
            weight.copy_(span)
        fuse(of_factors(str(folder), tensors), transformer)
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"cannot load the model {shown(str(folder))}: {' '.join(str(error).split())[:300]}"
        ) from error


def save_mean_flow(folder: Path, base: str, adapter: Mapping[str, Tensor], span: Tensor) -> None:
    """Write a folder that is loaded as an average velocity on the pipeline `base`, in half precision.

    Args:
        adapter: in peft's names, scales multiplied in.
        span: the weights of the second time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in {**adapter, SPAN: span}.items()}
    save_file(tensors, folder / FILE)
    index = {"_class_name": AVERAGE_VELOCITY, "base": base}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
