"""Pictures of runs in pages: small ones through training, and at their own size where a page has room for them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from advantageflow.run.samples import Sample, read_prompts, read_samples, sampled_iterations

PICTURES = 288  # of a page, in all runs and iterations
SHOWN_HEIGHT = 256  # pixels, at most, of what stands in a page
FULL_BYTES = 12_000_000  # of a page's pictures at their own size, where that is larger
EXTREMES = 6  # worst and best samples shown


@dataclass(frozen=True)
class Picture:
    """A sample in a page.

    Args:
        source: the picture as a data URI, at most 256 pixels high.
        full: likewise at its own size, where that is larger and the page has room for it.
        note: where it is at its own size, if not in the page.
    """

    prompt: str
    scores: dict[str, float]
    source: str
    full: str | None = None
    note: str = ""


def read_pictures(samples: Path, most: int, room: int = FULL_BYTES) -> dict[int, list[Picture]]:
    """Iteration -> pictures: evenly spaced ones, the first and the last always; those with the last's prompts alone.

    Empty for runs of versions that did not store what is needed.

    Args:
        samples: the folder of that name in a run's.
        most: pictures in all.
        room: bytes for pictures at their own size; the last iteration's have it first, then the first's.

    Raises:
        DamagedError: see `read_samples`.
    """
    iterations = sampled_iterations(samples)
    if not iterations:
        return {}
    prompts = read_prompts(samples, iterations[-1])
    alike = [iteration for iteration in iterations if read_prompts(samples, iteration) == prompts]
    *others, last = evenly(alike, max(2, most // len(prompts)))
    found = {}
    for iteration in (last, *others):
        drawn = read_samples(samples, iteration)
        size = full_bytes(drawn)
        found[iteration] = [picture_of(sample, samples.parent, size <= room) for sample in drawn]
        room -= size if size <= room else 0
    return dict(sorted(found.items()))


def full_bytes(drawn: Sequence[Sample]) -> int:
    """What pictures at their own size would take in a page, where that is larger than what stands in it."""
    return sum(sample.file.stat().st_size for sample in drawn if sample.file and _is_large(sample))


def picture_of(sample: Sample, run: Path, whole: bool) -> Picture:
    """A sample as it stands in a page.

    Args:
        run: its run's folder.
        whole: whether it is also kept at its own size.
    """
    full, note = None, ""
    if not _is_large(sample):
        source = _uri(sample.file.read_bytes()) if sample.file else _small_uri(sample.picture)
    else:
        source = _small_uri(sample.picture)
        if sample.file and whole:
            full = _uri(sample.file.read_bytes())
        elif sample.file:
            width, height = sample.picture.size
            note = f"{width} × {height} pixels in {sample.file.relative_to(run).as_posix()}, reduced here"
    return Picture(sample.prompt, sample.scores, source, full, note)


def extremes(pictures: dict[int, list[Picture]]) -> dict[str, list[Picture]]:
    """The worst and the best of the last samples, by the first score, ties by the next."""
    if not pictures:
        return {}
    ordered = sorted(pictures[max(pictures)], key=lambda picture: tuple(picture.scores.values()))
    count = min(EXTREMES, len(ordered) // 2)
    return {"best": ordered[::-1][:count], "worst": ordered[:count]} if count else {}


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _is_large(sample: Sample) -> bool:
    return sample.picture.height > SHOWN_HEIGHT


def _small_uri(picture: Image.Image) -> str:
    """At most 256 pixels high; very small ones without loss."""
    if picture.height > SHOWN_HEIGHT:
        width = max(1, round(picture.width * SHOWN_HEIGHT / picture.height))
        picture = picture.resize((width, SHOWN_HEIGHT), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "WEBP", lossless=picture.height <= SHOWN_HEIGHT // 2, quality=80)
    return _uri(buffer.getvalue())


def _uri(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode()
