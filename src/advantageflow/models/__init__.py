"""One adapter per diffusers family: encode prompts, predict velocity, decode latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advantageflow.models.sd3 import SD3Model

BUILT_IN = "scenes"


def load_model(path: str, dtype: str = "float32", device: str = "cpu") -> SD3Model:
    """Load a pipeline: "scenes" is the built-in one, anything else a folder or hub name of an SD3 pipeline."""
    from advantageflow.models.sd3 import SD3Model

    if path == BUILT_IN:
        from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
        from transformers.utils.logging import disable_progress_bar as quiet_transformers

        from advantageflow.scenes import WEIGHTS

        path = str(WEIGHTS)
        quiet_diffusers()  # it loads in a moment
        quiet_transformers()
    return SD3Model.load(path, dtype=dtype, device=device)


def model_exists(path: str) -> bool:
    """Whether `path` may be loaded: the built-in name, an existing pipeline folder, or a hub name like "owner/name"."""
    if path == BUILT_IN or (Path(path) / "model_index.json").is_file():
        return True
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
