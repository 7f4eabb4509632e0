"""Where a model comes from: built in, a folder, a single file or the hub; and a fingerprint of what is there."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.fingerprint import of_file, of_value
from advantageflow.hub import PICKLED, cannot_fetch, commit_of_hub, notice_offline

# Name -> folder in the package
BUILT_IN = {
    "scenes": "worlds/scenes/weights",
    "words": "worlds/words/weights",
    "scenes-meanflow": "worlds/scenes/mean_flow",
}
INDEX = "model_index.json"
BITS = ("8bit", "4bit")  # quantizations that bitsandbytes makes while it loads
AVERAGE_VELOCITY = "MeanFlowPipeline"  # the family that predicts average velocities, named in the index of its folder
DEFAULT_SIZE = 1024  # pixels
SIZES = {"stable-diffusion-v1-5/stable-diffusion-v1-5": 512}


def locate(path: str) -> str:
    """The folder of a built-in model; anything else as it is, with the home directory for `~`."""
    if path in BUILT_IN:
        return str(Path(__file__).parents[1] / BUILT_IN[path])
    return str(Path(path).expanduser()) if path.startswith("~") else path


def is_file(path: str) -> bool:
    """Whether a model is a single file, which holds the transformer alone."""
    return Path(path).suffix in (".safetensors", *PICKLED)


def check_model_path(path: str, base: str | None = None) -> None:
    """Check that `path` may be loaded, before anything is.

    Raises:
        ConfigError: it is not a built-in name, an existing pipeline folder or file, or a hub name like "owner/name".
    """
    path = locate(path)
    if is_file(path):
        _check_file(path, base)
        return
    if base is not None:
        raise ConfigError(
            f"model.base is {shown(base)}, but model.path {shown(path)} is no single file; remove model.base"
        )
    if (Path(path) / INDEX).is_file():
        return
    if path.count("/") != 1 or path.startswith((".", "/")) or Path(path).exists():
        raise ConfigError(
            f"model {shown(path)} is neither built in ({', '.join(BUILT_IN)}), nor a folder with a {INDEX}, nor a "
            ".safetensors file, nor a hub name"
        )


def _check_file(path: str, base: str | None) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"model {shown(path)} does not exist")
    if Path(path).suffix in PICKLED:
        raise ConfigError(f"model {shown(path)} is pickled, and nothing is unpickled here; give it as .safetensors")
    if base is None:
        raise ConfigError(
            f"model {shown(path)} is a single file, of which the transformer alone is read; set model.base to the "
            "folder or hub name of the pipeline that has all else, such as stabilityai/stable-diffusion-3.5-medium"
        )
    check_model_path(base)


def family_of(path: str) -> str:
    """The name of a pipeline's class.

    Raises:
        ConfigError: the pipeline cannot be read or fetched.
    """
    index = Path(path) / INDEX
    try:
        if index.is_file():
            return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
        from diffusers import DiffusionPipeline

        notice_offline()
        return str(DiffusionPipeline.load_config(path)["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot load the model {shown(path)}: its {INDEX} is damaged ({error!r:.200})") from error
    except OSError as error:
        raise cannot_fetch(path, error) from error


def stands_on(settings: ModelSettings) -> str:
    """The pipeline that has all but what a single file or an average velocity adds to it; else the model itself.

    Raises:
        ConfigError: an average velocity names none that is there.
    """
    path = settings.base or settings.path
    index = Path(locate(path)) / INDEX
    if not index.is_file() or family_of(locate(path)) != AVERAGE_VELOCITY:
        return path
    base = json.loads(index.read_text(encoding="utf-8")).get("base")
    if not isinstance(base, str) or family_of(locate(base)) == AVERAGE_VELOCITY:
        raise ConfigError(f"cannot load the model {shown(path)}: its {INDEX} names no base")
    return base


def picture_size(settings: ModelSettings) -> tuple[int, int]:
    """Height and width of a model's pictures in pixels, before it is loaded; 1024 as a rule where no folder tells."""
    size = settings.resolution
    if size is None:
        path = stands_on(settings)
        folder = Path(locate(path))
        try:
            network = "unet" if (folder / "unet").is_dir() else "transformer"
            parts = (json.loads((folder / part / "config.json").read_bytes()) for part in (network, "vae"))
            transformer, vae = parts
            levels = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
            size = int(transformer["sample_size"]) * 2 ** (len(levels) - 1)
        except (OSError, ValueError, KeyError, TypeError):  # a pipeline that is damaged is told when it is loaded
            size = SIZES.get(path, DEFAULT_SIZE)
    return size if isinstance(size, tuple) else (size, size)


def content(path: str, *parts: str) -> str | None:
    """A fingerprint of parts of a pipeline, all where none is named; None where nothing of it is at hand.

    A hub's is its commit, and a folder's is that of its files, read once as long as they stay as they are.
    """
    path = locate(path)
    if not Path(path).exists():
        commit = commit_of_hub(path, INDEX)
        return None if commit is None else of_value([path, commit])
    roots = [Path(path) / part for part in parts] or [Path(path)]
    files = sorted(file for root in roots for file in (root.rglob("*") if root.is_dir() else [root]) if file.is_file())
    named = {}
    for file in files:
        state = file.stat()
        named[file.relative_to(path).as_posix()] = _of_file(file, state.st_size, state.st_mtime_ns)
    return of_value(named)


@lru_cache(maxsize=4096)
def _of_file(file: Path, size: int, changed: int) -> str:
    return of_file(file)
