"""One adapter per diffusers family: encode prompts, predict velocity, decode latents."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantageflow.config import ConfigError, ModelSettings

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

# Name -> package whose folder "weights" holds a pipeline
BUILT_IN = {"scenes": "advantageflow.scenes", "words": "advantageflow.words"}
# Pipeline class -> its adapter
FAMILIES = {
    "StableDiffusion3Pipeline": "advantageflow.models.sd3:SD3Model",
    "FluxPipeline": "advantageflow.models.flux:FluxModel",
    "QwenImagePipeline": "advantageflow.models.qwen_image:QwenImageModel",
}


def load_model(path: str, device: str = "cpu", **settings: Any) -> FlowModel:
    """Load a pipeline.

    Args:
        path: "scenes" and "words" are built in; anything else is a folder or hub name of a pipeline of a known family.
        settings: see `config.ModelSettings`.

    Raises:
        ConfigError: it cannot be loaded, or its family is not known.
    """
    if path in BUILT_IN:
        from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
        from transformers.utils.logging import disable_progress_bar as quiet_transformers

        path = str(importlib.import_module(BUILT_IN[path]).WEIGHTS)
        quiet_diffusers()  # it loads in a moment
        quiet_transformers()
    family = _family(path)
    if family not in FAMILIES:
        raise ConfigError(f"{path} is a {family}; known families: {', '.join(FAMILIES)}")
    module, _, name = FAMILIES[family].partition(":")
    adapter: type[FlowModel] = getattr(importlib.import_module(module), name)
    return adapter.load(ModelSettings(**{**settings, "path": path}), device)


def _family(path: str) -> str:
    """The pipeline class that a model names."""
    index = Path(path) / "model_index.json"
    if index.is_file():
        return str(json.loads(index.read_text())["_class_name"])
    from diffusers import DiffusionPipeline

    try:
        return str(DiffusionPipeline.load_config(path)["_class_name"])
    except OSError as error:
        raise ConfigError(f"cannot load the model {path!r}: {' '.join(str(error).split())}") from error


def check_model_path(path: str) -> None:
    """Check that `path` may be loaded, before anything is.

    Raises:
        ConfigError: it is not a built-in name, an existing pipeline folder, or a hub name like "owner/name".
    """
    if path in BUILT_IN or (Path(path) / "model_index.json").is_file():
        return
    if path.count("/") != 1 or path.startswith((".", "/", "~")) or Path(path).exists():
        raise ConfigError(
            f"model {path!r} is neither built in ({', '.join(BUILT_IN)}), nor a folder with a model_index.json, nor a "
            "hub name"
        )
