"""Images as 8-bit pictures."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images in [0, 1], float32 [batch, 3, height, width] -> 8-bit pictures (times 255, rounded)."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
