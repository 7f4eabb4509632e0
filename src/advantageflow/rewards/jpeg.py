"""JPEG size as a reward (Black et al., 2023): a toy that needs no model and shows reward hacking well."""

from __future__ import annotations

from io import BytesIO

from torch import Tensor

from advantageflow.pictures import to_pil


def kilobytes(images: Tensor) -> list[float]:
    """Size of each image as a JPEG of quality 95, in units of 1000 bytes."""
    sizes = []
    for picture in to_pil(images):
        buffer = BytesIO()
        picture.save(buffer, format="JPEG", quality=95)
        sizes.append(buffer.tell() / 1000)
    return sizes


def incompressibility(images: Tensor, prompts: list[str]) -> list[float]:
    """Kilobytes: more detail is better."""
    return kilobytes(images)


def compressibility(images: Tensor, prompts: list[str]) -> list[float]:
    """-kilobytes / 500: less detail is better."""
    return [-size / 500 for size in kilobytes(images)]
