"""Pictures as files of their own, at full size, each with what it was made from in its text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from advantageflow.evaluation import Evaluation
from advantageflow.pictures import to_pil


def write_pictures(folder: Path, stem: str, shown: Evaluation, about: Mapping[str, object]) -> None:
    """Write STEM-NNN.png for every image, with its prompt, its number and `about` as text chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (picture, prompt) in enumerate(zip(to_pil(shown.images), shown.prompts, strict=True)):
        text = PngInfo()
        for name, value in {"prompt": prompt, "number": index, **about}.items():
            text.add_itxt(name, str(value))
        picture.save(folder / f"{stem}-{index:03d}.png", pnginfo=text)


def remove_pictures(folder: Path) -> None:
    """Remove what `write_pictures` wrote to a folder earlier, and nothing else."""
    for file in folder.glob("*-[0-9][0-9][0-9]*.png"):
        with suppress(UnidentifiedImageError), Image.open(file) as picture:
            if {"prompt", "number"} <= getattr(picture, "text", {}).keys():
                file.unlink()
