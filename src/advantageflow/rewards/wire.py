"""Images and scores on the wire: JSON, with images as PNG (8 bits) or as one npz of floats. Never pickle."""

from __future__ import annotations

from base64 import b64decode, b64encode
from io import BytesIO
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from advantageflow.pictures import to_pil

Encoding = Literal["png", "npz"]


class ScoreRequest(BaseModel):
    """What a client posts to /score: one prompt per image; images in base64, a list of PNGs or a list of one npz."""

    model_config = ConfigDict(extra="forbid")
    prompts: Annotated[list[str], Field(min_length=1)]
    images: Annotated[list[str], Field(min_length=1)]
    encoding: Encoding = "png"


class ScoreResponse(BaseModel):
    scores: list[float]


def encode_request(images: Tensor, prompts: list[str], encoding: Encoding = "png") -> ScoreRequest:
    """Images in [0, 1], [batch, 3, height, width]; npz keeps their floats, PNG rounds to 8 bits."""
    if encoding == "npz":
        buffer = BytesIO()
        np.savez_compressed(buffer, images=images.cpu().numpy())
        return ScoreRequest(prompts=prompts, images=[b64encode(buffer.getvalue()).decode()], encoding=encoding)
    encoded = []
    for picture in to_pil(images):
        buffer = BytesIO()
        picture.save(buffer, format="PNG", compress_level=1)
        encoded.append(b64encode(buffer.getvalue()).decode())
    return ScoreRequest(prompts=prompts, images=encoded)


def decode_images(request: ScoreRequest, max_pixels: int = 2**24) -> Tensor:
    """The images of a request, float32 in [0, 1], [batch, 3, height, width].

    Raises:
        ValueError: they cannot be read, are too large, differ in size, or are not one per prompt.
    """
    try:
        blobs = [b64decode(image, validate=True) for image in request.images]
        if request.encoding == "npz":
            with np.load(BytesIO(blobs[0]), allow_pickle=False) as archive:
                images = torch.from_numpy(archive["images"].astype(np.float32))
        else:
            images = torch.stack([_decode_png(blob, max_pixels) for blob in blobs])
    except (KeyError, OSError, RuntimeError, UnidentifiedImageError) as error:
        raise ValueError(f"the images cannot be read: {error}") from error
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(request.prompts):
        raise ValueError(f"{len(request.prompts)} prompts came with images of shape {tuple(images.shape)}")
    return images


def _decode_png(blob: bytes, max_pixels: int) -> Tensor:
    with Image.open(BytesIO(blob), formats=["PNG"]) as picture:
        if picture.width * picture.height > max_pixels:
            raise ValueError(
                f"an image has {picture.width} x {picture.height} pixels; at most {max_pixels} are allowed"
            )
        pixels = np.asarray(picture.convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
