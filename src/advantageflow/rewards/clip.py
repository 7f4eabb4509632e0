"""CLIP as rewards use it: unit embeddings of images and texts, and each scorer's own way to prepare images.

Official scorers differ in their preprocessing, and their values with it, so each way is written out and named here.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from advantageflow.pictures import to_pil
from advantageflow.rewards.hub import from_hub, reward_device

MAX_TEXT_TOKENS = 77


class Clip:
    """A `CLIPModel` and its tokenizer, frozen, in float32.

    Args:
        model: of any size.
        tokenizer: its own; prompts are padded and cut to 77 tokens, or fewer if the model takes fewer.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        self.model: Any = model.requires_grad_(False).eval().to(reward_device())
        self.tokenizer = tokenizer
        self.image_size: int = model.config.vision_config.image_size
        self._max_tokens = min(MAX_TEXT_TOKENS, model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, path: str, tokenizer: str | None = None) -> Clip:
        """Load from a folder or a hub name; the tokenizer may come from elsewhere."""
        return cls(from_hub(CLIPModel, path, dtype=torch.float32), from_hub(CLIPTokenizer, tokenizer or path))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Prepared pixels [batch, 3, size, size] -> unit vectors [batch, width], differentiable."""
        hidden = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return normalize(self.model.visual_projection(hidden), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Texts -> unit vectors [batch, width]."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self.model.device)
        hidden = self.model.text_model(**tokens).pooler_output
        return normalize(self.model.text_projection(hidden), dim=-1)

    def cosine(self, pixels: Tensor, texts: list[str]) -> Tensor:
        """Cosine similarity of each image with its own text, [batch] on the model's device, differentiable."""
        return (self.embed_images(pixels) * self.embed_texts(texts)).sum(-1)

    def take(self, images: Tensor) -> Tensor:
        """Images of any precision on any device in the model's precision on its device."""
        return images.to(self.model.device, self.model.dtype)


def prepare_as_pictures(images: Tensor, size: int) -> Tensor:
    """8-bit, shortest edge to `size` by Pillow's bicubic, centre crop, CLIP's mean and std (PickScore, Aesthetic)."""
    return prepare_pictures(to_pil(images), size)


def prepare_pictures(pictures: list[Image.Image], size: int) -> Tensor:
    """The same for pictures of any sizes."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    pixels: Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
    return pixels


def prepare_as_tensor(images: Tensor, size: int) -> Tensor:
    """Never rounded: shortest edge to `size` by antialiased bilinear, centre crop, mean and std (CLIPScore)."""
    resized = _cover(images, size, "bilinear")
    top, left = (round((edge - size) / 2) for edge in resized.shape[-2:])
    return standardize(resized[..., top : top + size, left : left + size])


def prepare_smoothly(images: Tensor, size: int) -> Tensor:
    """`prepare_as_pictures` with a gradient: torch's antialiased bicubic on floats, cut off at black and white.

    Pillow's filter is the same, but rounds to 8 bits before, between and after its two passes.
    """
    resized = _cover(images, size, "bicubic").clamp(0, 1)
    top, left = ((edge - size) // 2 for edge in resized.shape[-2:])
    return standardize(resized[..., top : top + size, left : left + size])


def _cover(images: Tensor, size: int, mode: str) -> Tensor:
    """Shortest edge to `size`, antialiased; the other in proportion, rounded down."""
    height, width = images.shape[-2:]
    short = min(height, width)
    return interpolate(images, (size * height // short, size * width // short), mode=mode, antialias=True)


def prepare_padded(images: Tensor, size: int) -> Tensor:
    """Never rounded: longest edge to `size` by antialiased bicubic, black bars, mean and std (HPSv2.1)."""
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    resized = interpolate(images, (round(height * scale), round(width * scale)), mode="bicubic", antialias=True)
    across, down = size - resized.shape[-1], size - resized.shape[-2]
    return standardize(pad(resized, (across // 2, across - across // 2, down // 2, down - down // 2)))


def standardize(pixels: Tensor) -> Tensor:
    """Subtract CLIP's mean and divide by its standard deviation, per channel."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (pixels - mean) / std
