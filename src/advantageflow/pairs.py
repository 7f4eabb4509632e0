"""Pairs of pictures on disk, of which one was preferred: what a forward method may learn from in place of its own.

A file has an object a line: {"prompt": ..., "chosen": FILE, "rejected": FILE, "scores": [1, 0]}; paths start from the
file's folder, and scores are optional. Every picture is looked at before a run begins, and decoded when it is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError, shown
from advantageflow.fingerprint import of_file, of_value
from advantageflow.prompts.files import FORMATS, read_rows

SUFFIXES = [suffix for suffix, kind in FORMATS.items() if kind == "JSON lines"]
FILES = ("chosen", "rejected")
FORMATS_OF_PICTURES = ("PNG", "JPEG", "WEBP")
MODES = ("RGB", "L", "P")
MAX_PAIRS = 10**6
MAX_FILE = 2**26  # bytes of a picture
MAX_PIXELS = 2**25
MAX_SCORE = 1e8
ORIENTATION = 0x0112  # of EXIF
EXAMPLE = '{"prompt": "a cat", "chosen": "a.png", "rejected": "b.png"}'


@dataclass(frozen=True)
class Pair:
    """Two pictures of a prompt, and what each is worth; `origin` is the line that names them."""

    prompt: str
    pictures: tuple[Path, Path]
    scores: tuple[float, float]
    origin: str


def load_pairs(source: str, size: tuple[int, int], column: str = "prompt") -> list[Pair]:
    """The pairs of a file, every picture of which was looked at.

    Args:
        size: height and width in pixels of the model's pictures; those on disk may be larger, but not smaller.
        column: that holds the prompt.

    Raises:
        ConfigError: the file, a line of it or a picture is not what it should be; the message has file and line.
    """
    path = Path(os.path.expanduser(source))
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"rollout.source is {shown(source)}; pairs are read from {' or '.join(SUFFIXES)}, with a line such as "
            f"{EXAMPLE}"
        )
    if not path.is_file():
        raise ConfigError(f"rollout.source {shown(source)} does not exist; give a file with pairs ({SUFFIXES[0]})")
    pairs: list[Pair] = []
    looked_at: set[Path] = set()
    scored = False  # by the file's first line
    for origin, row in read_rows(path, column):
        pair = _pair(row, origin, path.parent, column)
        scored = scored if pairs else "scores" in row
        if scored != ("scores" in row):
            raise ConfigError(
                f"{origin} has {'no ' if scored else ''}scores, other than {pairs[0].origin}; give them in every line "
                "or in none"
            )
        for picture in {*pair.pictures} - looked_at:
            _look_at(picture, size, origin)
            looked_at.add(picture)
        pairs.append(pair)
        if len(pairs) > MAX_PAIRS:
            raise ConfigError(f"{source} has more than {MAX_PAIRS} pairs; split it")
    if not pairs:
        raise ConfigError(f"{shown(source)} holds no pairs; write a line for each, such as {EXAMPLE}")
    return pairs


def _pair(row: Any, origin: str, folder: Path, column: str) -> Pair:
    if not isinstance(row, dict):
        raise ConfigError(f"{origin} is {shown(row)}; write an object, such as {EXAMPLE}")
    for name in (column, *FILES):
        if not isinstance(row.get(name), str) or not row[name].strip():
            has = shown(", ".join(map(str, row)))[1:-1]
            raise ConfigError(f"{origin} has no text under {name!r} (it has {has}); write it as in {EXAMPLE}")
    for name in row:
        if name not in (column, *FILES, "scores") and nearest(name, ["scores"]):
            raise ConfigError(f"{origin} has {shown(name)}{nearest(name, ['scores'])}; rename or remove it")
    scores = row.get("scores", [1, 0])
    numbers = isinstance(scores, list) and all(type(each) in (int, float) for each in scores)
    if not numbers or len(scores) != 2 or not all(isfinite(each) and abs(each) <= MAX_SCORE for each in scores):
        raise ConfigError(
            f"{origin} has the scores {shown(scores)}; give two numbers, of the chosen and of the rejected picture"
        )
    if scores[0] <= scores[1]:
        raise ConfigError(
            f"{origin} has the scores {shown(scores)}, by which the chosen picture is not the better one; exchange the "
            "pictures, or remove the line"
        )
    chosen, rejected = (folder / row[name] for name in FILES)
    if chosen == rejected:
        raise ConfigError(f"{origin} names {shown(row['chosen'])} as both chosen and rejected; remove the line")
    return Pair(row[column].strip(), (chosen, rejected), (float(scores[0]), float(scores[1])), origin)


def _look_at(path: Path, size: tuple[int, int], origin: str) -> None:
    """Check what a picture's header tells."""
    if not path.is_file():
        raise ConfigError(f"{origin}: there is no file {shown(str(path))}; paths start from the folder of the pairs")
    if path.stat().st_size > MAX_FILE:
        raise ConfigError(f"{origin}: {path} has more than {MAX_FILE >> 20} MB; save it smaller")
    with reading(path, origin), Image.open(path, formats=FORMATS_OF_PICTURES) as picture:
        turned = picture.getexif().get(ORIENTATION, 1) > 4  # by a quarter
        width, height = picture.size[::-1] if turned else picture.size
        alpha, frames = picture.has_transparency_data, getattr(picture, "n_frames", 1)
    wrong = None
    if picture.mode not in MODES or alpha:
        wrong = "is transparent" if alpha else f"is of the mode {picture.mode}"
        wrong += "; save it as 8-bit RGB"
    elif frames > 1:
        wrong = f"has {frames} frames; save one of them"
    elif width * height > MAX_PIXELS:
        wrong = f"has {width} x {height} pixels, more than {MAX_PIXELS}; save it smaller"
    elif height < size[0] or width < size[1]:
        wrong = (
            f"has {width} x {height} pixels, but the model draws {size[1]} x {size[0]}; give a larger one, or set "
            "model.resolution"
        )
    if wrong:
        raise ConfigError(f"{origin}: {path} {wrong}")


def read_picture(path: Path, size: tuple[int, int], origin: str) -> np.ndarray:
    """A picture as uint8 [height, width, 3]: scaled by Pillow's bicubic to cover the size, and cropped in the centre.

    Raises:
        ConfigError: it is damaged; the message names the file and the line of the pairs.
    """
    with reading(path, origin), Image.open(path, formats=FORMATS_OF_PICTURES) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        fitted = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
        pixels: np.ndarray = np.array(fitted)
        return pixels


@contextmanager
def reading(path: Path, origin: str) -> Iterator[None]:
    """Whatever is wrong with a picture is one sentence, with the place that names it."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{origin}: {path} is no whole picture ({shown(reason)[1:-1]}); give a PNG, JPEG or WebP file"
        ) from error


def trained(pairs: Iterable[Pair], prompts: Collection[str]) -> list[Pair]:
    """The pairs of these prompts: those of held-out ones are never learned from."""
    kept = {*prompts}
    return [pair for pair in pairs if pair.prompt in kept]


def describe(pairs: Sequence[Pair], kept: Sequence[Pair], source: str) -> str:
    """A line for the terminal."""
    left_out = len(pairs) - len(kept)
    note = f" ({left_out} left out, whose prompts are held out)" if left_out else ""
    return f"pairs: {len(kept)} from {source}{note}; their scores are learned from, and rewards are only evaluated"


def fingerprint(pairs: Iterable[Pair]) -> str:
    """Of prompts, scores and the bytes of all pictures; where they lie does not count."""
    files = {path: of_file(path) for path in dict.fromkeys(path for pair in pairs for path in pair.pictures)}
    return of_value([[pair.prompt, pair.scores, [files[path] for path in pair.pictures]] for pair in pairs])
