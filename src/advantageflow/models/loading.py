"""A pipeline from a folder or the hub, perhaps with its transformer from a single file or in fewer bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.hub import cannot_fetch
from advantageflow.models.source import BITS, INDEX, locate, stands_on

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel


def load_pipeline(family: type[FlowModel], settings: ModelSettings) -> Any:
    """The pipeline of a family that the settings name; weights come as safetensors only.

    Raises:
        ConfigError: there is no such pipeline, or it is damaged or cannot be fetched.
    """
    dtype, path = getattr(torch, settings.dtype), locate(stands_on(settings))
    given: dict[str, Any] = dict.fromkeys(family.unused)
    if settings.max_sequence_length == 0 and not family.dispensable:
        raise ConfigError(
            "model.max_sequence_length=0 leaves the text encoder T5 out, which only Stable Diffusion 3 can do without; "
            "set it to null, or to a number of tokens"
        )
    if settings.max_sequence_length == 0:
        given |= dict.fromkeys(family.dispensable)
    index = Path(path) / INDEX
    if index.is_file():  # diffusers wants to be told which parts are meant to be absent
        parts = json.loads(index.read_text(encoding="utf-8"))
        given |= {name: None for name, value in parts.items() if value == [None, None]}
    try:
        if settings.base:
            given[family.network] = _load_file(family, settings, dtype)
        elif settings.quantization in BITS:
            given[family.network] = _load_quantized(path, family.network, settings, dtype)
        return family.pipeline_class.from_pretrained(path, dtype=dtype, use_safetensors=True, **given)
    except ConfigError:
        raise
    except (OSError, ImportError, ValueError, SafetensorError) as error:
        if not Path(path).exists() and not isinstance(error, ImportError):
            raise cannot_fetch(path, error) from error
        raise ConfigError(
            f"cannot load the model {shown(settings.path)}: {' '.join(str(error).split())[:300]}"
        ) from error


def _load_quantized(path: str, network: str, settings: ModelSettings, dtype: torch.dtype) -> Any:
    """The transformer in 4 or 8 bits; needs bitsandbytes and CUDA."""
    from diffusers import AutoModel, BitsAndBytesConfig

    options: dict[str, Any] = {"load_in_8bit": True}
    if settings.quantization == "4bit":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return AutoModel.from_pretrained(
        path,
        subfolder=network,
        quantization_config=BitsAndBytesConfig(**options),
        dtype=dtype,
        use_safetensors=True,
    )


def _load_file(family: type[FlowModel], settings: ModelSettings, dtype: torch.dtype) -> Any:
    """The transformer of a single file, with the configuration of the pipeline `model.base`."""
    if settings.quantization in BITS:
        raise ConfigError(
            f"model.quantization={settings.quantization} does not work with a single file; set it to fp8, or give the "
            "folder of a pipeline"
        )
    kind = family.transformer_class
    try:
        transformer = kind.from_single_file(
            settings.path, config=locate(str(settings.base)), subfolder=family.network, dtype=dtype
        )
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"it holds no {kind.__name__} like that of {settings.base} ({error!r:.150})") from error
    absent = [name for name, weight in transformer.named_parameters() if weight.is_meta]
    if absent:
        raise ValueError(f"it lacks {len(absent)} weights of a {kind.__name__}, such as {absent[0]}")
    return transformer
