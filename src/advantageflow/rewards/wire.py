"""Images and scores on the wire: JSON, with images as PNG (8 bits) or as one npz of floats. Never pickle.

What a request declares is measured before anything of its size is made in memory.
"""

from __future__ import annotations

import json
import math
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from advantageflow.errors import cut, shown
from advantageflow.pictures import to_pil

Encoding = Literal["png", "npz"]
MAX_IMAGES = 1024
MAX_CHARACTERS = 10_000  # of a prompt
MAX_METADATA = 100_000  # characters of JSON, of a prompt's metadata
MAX_PIXELS = 2**24  # of all images of a request
MAX_PARTS = 500_000  # of a request's JSON
NPZ_HEADER = 10_000  # bytes; numpy reads no longer ones either
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # of 8 bits
Row = dict[str, Any]


class ScoreRequest(BaseModel):
    """What a client posts to /score: one prompt per image; images in base64, a list of PNGs or a list of one npz.

    `metadata` are the prompts' other columns, a mapping each.
    """

    model_config = ConfigDict(extra="forbid")
    prompts: Annotated[
        list[Annotated[str, Field(max_length=MAX_CHARACTERS)]], Field(min_length=1, max_length=MAX_IMAGES)
    ]
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_IMAGES)]
    encoding: Encoding = "png"
    metadata: list[Row] | None = None

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, rows: list[Row] | None) -> list[Row] | None:
        for index, row in enumerate(rows or []):
            if len(json.dumps(row)) > MAX_METADATA:
                raise ValueError(f"the metadata of image {index} is longer than {MAX_METADATA} characters")
        return rows


class ScoreResponse(BaseModel):
    scores: list[float]


class TooLargeError(ValueError):
    """More than one request may have; the same in parts may be taken."""


def encode_request(
    images: Tensor,
    prompts: Sequence[str],
    encoding: Encoding = "png",
    metadata: Sequence[Mapping[str, Any]] | None = None,
) -> ScoreRequest:
    """Images in [0, 1], [batch, 3, height, width]; npz keeps their floats, PNG rounds to 8 bits.

    Raises:
        ValueError: a prompt or its metadata are too long.
    """
    if encoding == "npz":
        buffer = BytesIO()
        np.savez_compressed(buffer, images=images.cpu().numpy())
        blobs = [buffer.getvalue()]
    else:
        blobs = []
        for picture in to_pil(images):
            buffer = BytesIO()
            picture.save(buffer, format="PNG", compress_level=1)
            blobs.append(buffer.getvalue())
    encoded = [b64encode(blob).decode() for blob in blobs]
    rows = None if metadata is None else [dict(row) for row in metadata]
    return ScoreRequest(prompts=list(prompts), images=encoded, encoding=encoding, metadata=rows)


def read_request(body: bytes) -> ScoreRequest:
    """A request's JSON, checked but for its images.

    Raises:
        TooLargeError: it has too many parts.
        ValueError: it is none.
    """
    # a small body of many small parts takes a hundred times its size once it is read
    if sum(body.count(mark) for mark in (b",", b"[", b"{", b":")) > MAX_PARTS:
        raise TooLargeError(f"the request has more than {MAX_PARTS} parts; send fewer images")
    try:
        return ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"the request's {cut(where) or 'body'} cannot be read: {cut(first['msg'])}") from error


def decode_images(request: ScoreRequest, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The images of a request, float32 in [0, 1], [batch, 3, height, width].

    Args:
        max_pixels: of all images together.

    Raises:
        TooLargeError: they have more pixels.
        ValueError: they cannot be read, differ in size, are not in [0, 1], or are not one per prompt; the message has
            the image's number.
    """
    count = len(request.prompts)
    if request.metadata is not None and len(request.metadata) != count:
        raise ValueError(f"{count} prompts came with metadata of {len(request.metadata)}")
    blobs = [_base64(text, index) for index, text in enumerate(request.images)]
    if request.encoding == "npz":
        if len(blobs) != 1:
            raise ValueError(f"{len(blobs)} npz archives came; send all images in one")
        return _decode_npz(blobs[0], count, max_pixels)
    if len(blobs) != count:
        raise ValueError(f"{count} prompts came with {len(blobs)} images")
    return _decode_pngs(blobs, max_pixels)


def _base64(text: str, index: int) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"image {index} cannot be read: it is not base64: {cut(str(error))}") from error


def _decode_pngs(blobs: list[bytes], max_pixels: int) -> Tensor:
    sizes = []
    for index, blob in enumerate(blobs):
        with _open_png(blob, index) as picture:  # reads no pixels
            sizes.append(picture.size)
            if picture.mode not in MODES:
                raise ValueError(f"image {index} cannot be read: its mode is {picture.mode}; send 8 bits per channel")
        if sizes[index] != sizes[0]:
            told = " and ".join(f"image {i} is {sizes[i][0]} x {sizes[i][1]}" for i in (0, index))
            raise ValueError(f"{told}; images of one request have one size")
        _check_pixels(sum(width * height for width, height in sizes), f"image {index}", max_pixels)
    images = torch.empty(len(blobs), 3, sizes[0][1], sizes[0][0])
    for index, blob in enumerate(blobs):
        try:
            with _open_png(blob, index) as picture:
                pixels = np.array(picture.convert("RGB"))
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise of every kind
            raise ValueError(f"image {index} cannot be read: {_short(error)}") from error
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
    return images.div_(255)


def _open_png(blob: bytes, index: int) -> Image.Image:
    try:
        return Image.open(BytesIO(blob), formats=["PNG"])
    except MemoryError:
        raise
    except Exception as error:  # also DecompressionBombError, which is of no kind in particular
        raise ValueError(f"image {index} cannot be read: {_short(error)}") from error


def _decode_npz(blob: bytes, count: int, max_pixels: int) -> Tensor:
    if blob.count(b"PK\x01\x02") > 2:
        raise ValueError("image 0 cannot be read: the npz holds more than one array")
    try:
        with zipfile.ZipFile(BytesIO(blob)) as archive:
            (entry,) = archive.infolist()
            if entry.filename != "images.npy" or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("an npz holds one array, images, stored or deflated")
            file = zipfile.Path(archive, entry.filename)
            with file.open("rb") as stream:
                shape, size = _npy_header(stream.read(NPZ_HEADER))
            _check_shape(shape, count)
            _check_pixels(math.prod(shape) // 3, "the npz", max_pixels)
            if not size <= entry.file_size <= size + NPZ_HEADER:
                raise ValueError(f"its array is said to have {size} bytes, the archive {entry.file_size}")
            with file.open("rb") as stream:
                images = np.lib.format.read_array(stream, allow_pickle=False)
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:  # of zipfile, zlib and numpy, of every kind
        raise ValueError(f"image 0 and those after it cannot be read: {_short(error)}") from error
    found = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    fit = ((found >= 0) & (found <= 1)).flatten(1).all(1)  # NaN is neither
    for index in (~fit).nonzero().flatten().tolist():
        raise ValueError(f"image {index} has values that are not in [0, 1]")
    return found


def _npy_header(start: bytes) -> tuple[tuple[int, ...], int]:
    """Shape and bytes of an array of floats, as its header declares them."""
    stream = BytesIO(start)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"its dtype is {shown(str(dtype), 60)}; send float16, float32 or float64 in [0, 1]")
    return shape, math.prod(shape) * dtype.itemsize


def _check_shape(shape: tuple[int, ...], count: int) -> None:
    if len(shape) != 4 or shape[1] != 3 or shape[0] != count or not all(shape):
        raise ValueError(f"{count} prompts came with images of shape {shown(shape, 100)}")


def _check_pixels(pixels: int, what: str, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise TooLargeError(f"with {what} the request has {pixels} pixels; at most {max_pixels} are allowed")


def _short(error: Exception) -> str:
    return cut(f"{type(error).__name__}: {' '.join(str(error).split())}")
