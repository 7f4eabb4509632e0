"""One adapter per diffusers family: encode prompts, predict velocity, decode latents."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.models.source import AVERAGE_VELOCITY, family_of, locate
from advantageflow.models.source import BUILT_IN as BUILT_IN
from advantageflow.models.source import check_model_path as check_model_path
from advantageflow.models.source import picture_size as picture_size

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel
    from advantageflow.objectives.base import Method

# Pipeline class -> its adapter
FAMILIES = {
    "StableDiffusion3Pipeline": "advantageflow.models.sd3:SD3Model",
    "FluxPipeline": "advantageflow.models.flux:FluxModel",
    "QwenImagePipeline": "advantageflow.models.qwen_image:QwenImageModel",
    "Flux2Pipeline": "advantageflow.models.flux2:Flux2Model",
    "Flux2KleinPipeline": "advantageflow.models.flux2:Flux2KleinModel",
    "ZImagePipeline": "advantageflow.models.z_image:ZImageModel",
    "SanaPipeline": "advantageflow.models.sana:SanaModel",
    "StableDiffusionPipeline": "advantageflow.models.sd15:SD15Model",
    "StableDiffusionXLPipeline": "advantageflow.models.sdxl:SDXLModel",
    AVERAGE_VELOCITY: "advantageflow.models.mean_flow:MeanFlowModel",
}
CURVED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")  # whose path between image and noise is not straight


def _is_news(record: logging.LogRecord) -> bool:
    """All but that transformers takes PIL's image processors in place of torchvision's: nothing here uses either."""
    return "requires torchvision (not installed); falling back to" not in str(record.msg)


logging.getLogger("transformers.utils.import_utils").addFilter(_is_news)


def load_model(path: str, device: str = "cpu", **settings: Any) -> FlowModel:
    """Load a pipeline.

    Args:
        path: "scenes", "words" and "scenes-meanflow" are built in; anything else is a folder or hub name of a pipeline
            of a known family, or a single file with its transformer.
        settings: see `config.ModelSettings`.

    Raises:
        ConfigError: it cannot be loaded, or its family is not known.
    """
    chosen = ModelSettings(**{**settings, "path": path})
    check_model_path(path, chosen.base)
    adapter = adapter_of(check_family(chosen))
    if path in BUILT_IN or not sys.stderr.isatty():  # it loads in a moment, or nobody sees bars
        hide_bars()
    return adapter.load(chosen, device)


def adapter_of(family: str) -> type[FlowModel]:
    """The class that adapts a family of `FAMILIES`."""
    module, _, name = FAMILIES[family].partition(":")
    with nullcontext() if module in sys.modules else no_garbage():
        adapter: type[FlowModel] = getattr(importlib.import_module(module), name)
    return adapter


@contextmanager
def no_garbage() -> Iterator[None]:
    """Keep all that is made in this block, and look for no garbage in it, now or later.

    Of the four thousand modules that a family imports nothing is ever freed; to look through them again and again is a
    fifth of the time that they take.
    """
    gc.collect()  # what is garbage before is not kept
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def load_and_say(settings: ModelSettings, say: Callable[[str], None]) -> FlowModel:
    """Load the model of settings, on the GPU if there is one; `say` is told what is loaded, and what it starts from."""
    from advantageflow.devices import choose_device  # which imports torch

    say(f"loading the model {settings.path}")
    if settings.prompt_cache:
        say(f"prompt embeddings are kept in {settings.prompt_cache}")
    model = load_model(device=choose_device(settings.device), **settings.model_dump(exclude={"device"}))
    if model.start:
        say(f"its start is the adapter {settings.lora}: {model.start}")
    return model


def hide_bars() -> None:
    """Bars of diffusers and transformers, of files that they read and write, are not shown from now on."""
    from diffusers.utils.logging import disable_progress_bar as of_diffusers
    from transformers.utils.logging import disable_progress_bar as of_transformers

    of_diffusers()
    of_transformers()


def check_family(settings: ModelSettings) -> str:
    """The family of a model that can be had; of a hub's model the index is fetched, and no weights.

    Raises:
        ConfigError: it cannot be had, or its family is not known.
    """
    family = family_of(locate(settings.base or settings.path))
    if family not in FAMILIES:
        raise ConfigError(f"{settings.path} is a {family}; known families: {', '.join(FAMILIES)}")
    return family


def check_learned(method: Method, path: str, family: str) -> None:
    """Check that a method learns what a model predicts.

    Raises:
        ConfigError: one of them is of average velocities, and the other is not.
    """
    predicted = family == AVERAGE_VELOCITY
    if method.average_velocity == predicted:
        return
    if predicted:
        raise ConfigError(
            f"objective {method.name!r} learns a velocity, but the model {shown(path)} draws by its average velocity "
            "over whole steps; set model.path to another, such as scenes, or choose a method of average velocities"
        )
    raise ConfigError(
        f"objective {method.name!r} learns an average velocity, but the model {shown(path)} predicts none; set "
        "model.path=scenes-meanflow, or choose another method"
    )
