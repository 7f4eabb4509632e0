"""Pictures of the same prompts and noise through a run: written at their own size, and read again.

samples/000050/00.webp ... one file per prompt, samples/000050.json their prompts, tasks and scores. Early versions kept
samples/000050.webp in place of the folder: all pictures from left to right, at most 256 pixels high.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from advantageflow.pictures import save_picture, to_pil
from advantageflow.run.checkpoint import atomic_directory, write_atomic
from advantageflow.run.stored import DamagedError, read_list

if TYPE_CHECKING:
    from advantageflow.evaluation import Evaluation

LOSSLESS_SIDE = 128  # pixels; small pictures stay exact
QUALITY = 90  # of larger ones


@dataclass(frozen=True)
class Sample:
    """A picture that was read, with its prompt and scores.

    Args:
        file: that holds it alone; None where an early version put all of an iteration into one.
    """

    prompt: str
    scores: dict[str, float]
    picture: Image.Image
    file: Path | None


def write_samples(folder: Path, iteration: int, shown: Evaluation) -> None:
    """Write what was drawn after an iteration; the JSON comes last, so where it is, the pictures are whole."""
    place = folder / f"{iteration:06d}"
    with atomic_directory(place) as temporary:
        for index, picture in enumerate(to_pil(shown.images)):
            save_picture(
                picture, temporary / _name(index), lossless=max(picture.size) <= LOSSLESS_SIDE, quality=QUALITY
            )
    entries = [
        {
            "prompt": prompt,
            "task": task,
            "scores": {label: values[i].item() for label, values in shown.by_image.items()},
        }
        for i, (prompt, task) in enumerate(zip(shown.prompts, shown.prompt_tasks, strict=True))
    ]
    write_atomic(place.with_suffix(".json"), json.dumps(entries, indent=1) + "\n")


def sampled_iterations(folder: Path) -> list[int]:
    """Iterations of which there are pictures, in their order."""
    return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal())


def read_prompts(folder: Path, iteration: int) -> list[str]:
    """The prompts of an iteration's pictures; raises what `read_samples` does."""
    return [entry["prompt"] for entry in _entries(folder, iteration)]


def read_samples(folder: Path, iteration: int) -> list[Sample]:
    """What `write_samples` wrote.

    Raises:
        DamagedError: a file is missing or holds something else; the message names it.
    """
    entries, place = _entries(folder, iteration), folder / f"{iteration:06d}"
    strip = place.with_suffix(".webp")
    files: list[Path | None] = [place / _name(index) for index in range(len(entries))]
    if not place.is_dir() and strip.exists():
        pictures, files = _cells(strip, len(entries)), [None] * len(entries)
    else:
        pictures = [_read(file) for file in files if file]
    return [
        Sample(entry["prompt"], entry["scores"], picture, file)
        for entry, picture, file in zip(entries, pictures, files, strict=True)
    ]


def _name(index: int) -> str:
    return f"{index:02d}.webp"


def _entries(folder: Path, iteration: int) -> list[dict[str, Any]]:
    file = folder / f"{iteration:06d}.json"
    entries = read_list(file, {"prompt": str, "task": str, "scores": dict})
    for entry in entries:
        for name, score in entry["scores"].items():
            if not isinstance(score, int | float) or isinstance(score, bool):
                raise DamagedError(f"{file} is damaged: the score {name!r} is of the type {type(score).__name__}")
    return entries


def _cells(strip: Path, count: int) -> list[Image.Image]:
    """The pictures of an early version's strip."""
    whole = _read(strip)
    width = whole.width // count
    if not width:
        raise DamagedError(f"{strip} is damaged: it is {whole.width} pixels wide and holds no {count} pictures")
    return [whole.crop((i * width, 0, (i + 1) * width, whole.height)) for i in range(count)]


def _read(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            found: Image.Image = picture.convert("RGB")
            return found
    except FileNotFoundError:
        raise DamagedError(f"{file} is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamagedError(f"{file} is damaged: {error}") from None
