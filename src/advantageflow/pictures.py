"""Images as 8-bit pictures, and pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from advantageflow.errors import writing


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images in [0, 1], float32 [batch, 3, height, width] -> 8-bit pictures (times 255, rounded)."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Save in the format of the file's ending; an error names the file."""
    with writing(path):
        picture.save(path, **options)
