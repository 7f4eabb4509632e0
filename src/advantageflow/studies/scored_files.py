"""Pictures on disk and their scores: files, folders with captions, and tables; batch by batch, however many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advantageflow.errors import ConfigError, shown
from advantageflow.pairs import FORMATS_OF_PICTURES, MAX_PIXELS, reading
from advantageflow.prompts.files import FORMATS, read_rows
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import score

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
TABLES = tuple(ending for ending, kind in FORMATS.items() if kind not in ("text", "YAML"))
AT_ONCE = 16  # pictures
PIXELS_AT_ONCE = 2**23


@dataclass(frozen=True)
class Picture:
    """A file, its prompt, and the other columns of the table that names it; `origin` is its place for messages."""

    path: Path
    prompt: str
    origin: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def pictures_of(sources: Iterable[Path], prompt: str | None, column: str = "prompt") -> list[Picture]:
    """All pictures that sources name, in their order.

    Args:
        sources: a picture; a folder of pictures; or a table with the columns `image`, a path from the table's folder,
            and `column`.
        prompt: of pictures and folders; without it each picture has a caption beside it, NAME.txt.

    Raises:
        ConfigError: a source is none of these, or a picture has no prompt.
    """
    found: list[Picture] = []
    for source in sources:
        if source.is_dir():
            files = sorted(file for file in source.iterdir() if file.suffix.lower() in ENDINGS)
            if not files:
                raise ConfigError(f"the folder {source} holds no pictures ({', '.join(ENDINGS)})")
            found += [Picture(file, prompt or _caption(file), str(source)) for file in files]
        elif source.suffix.lower() in TABLES:
            if prompt is not None:
                raise ConfigError(f"{source} has a prompt for each picture; leave out --prompt, or give its pictures")
            found += _of_table(source, column)
        else:
            found.append(Picture(source, prompt or _caption(source), "rewards score"))
    return found


def _caption(picture: Path) -> str:
    file = picture.with_suffix(".txt")
    text = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not text:
        raise ConfigError(
            f"{picture} has no prompt; give --prompt TEXT, write {file.name} beside it, or name it in a CSV with the "
            "columns image,prompt"
        )
    return text


def _of_table(table: Path, column: str) -> Iterator[Picture]:
    for origin, row in read_rows(table, column):
        for name in ("image", column):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise ConfigError(
                    f"{origin} has no text in the column {name!r}; a table has the columns image,{column}"
                )
        rest = {name: value for name, value in row.items() if name not in ("image", column)}
        yield Picture(table.parent / row["image"].strip(), row[column].strip(), origin, rest)


def check_prompts(pictures: Iterable[Picture], rewards: Mapping[str, Reward]) -> None:
    """Check that rewards can score every prompt, where they say so.

    Raises:
        ConfigError: one cannot; the message has the picture's place.
    """
    for name, reward in rewards.items():
        check = getattr(reward, "check_prompt", None)
        for picture in pictures if check else ():
            try:
                check(picture.prompt)  # type: ignore[misc]
            except ValueError as error:
                raise ConfigError(f"{picture.origin}: the reward {shown(name)} cannot score this: {error}") from error


def scored(
    pictures: Sequence[Picture], rewards: Mapping[str, Reward], advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """A row for each picture: "image", "prompt", and every reward by its name. A batch is in memory at a time.

    Raises:
        ConfigError: a file is no picture; or see `scoring.score`.
    """
    for batch, images in _batches(pictures):
        prompts, metadata = [one.prompt for one in batch], [dict(one.metadata) for one in batch]
        found = {name: score(name, reward, images, prompts, metadata).tolist() for name, reward in rewards.items()}
        for number, one in enumerate(batch):
            yield {"image": str(one.path), "prompt": one.prompt, **{name: found[name][number] for name in rewards}}
        advance(len(batch))


def _batches(pictures: Sequence[Picture]) -> Iterator[tuple[list[Picture], Tensor]]:
    """Consecutive pictures of one size, float32 [batch, 3, height, width] in [0, 1]."""
    for size, group in groupby(pictures, _size):
        same = list(group)
        most = max(1, min(AT_ONCE, PIXELS_AT_ONCE // (size[0] * size[1])))
        for first in range(0, len(same), most):
            batch = same[first : first + most]
            pixels = np.stack([_pixels(one) for one in batch])
            yield batch, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _size(picture: Picture) -> tuple[int, int]:
    with reading(picture.path, picture.origin), Image.open(picture.path, formats=FORMATS_OF_PICTURES) as found:
        if found.width * found.height > MAX_PIXELS:
            raise ConfigError(f"{picture.origin}: {picture.path} has more than {MAX_PIXELS} pixels; save it smaller")
        return ImageOps.exif_transpose(found).size if found.getexif() else found.size


def _pixels(picture: Picture) -> np.ndarray:
    with reading(picture.path, picture.origin), Image.open(picture.path, formats=FORMATS_OF_PICTURES) as found:
        return np.asarray(ImageOps.exif_transpose(found).convert("RGB"))
