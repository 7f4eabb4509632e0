"""The headline of the drawn world: whether a picture shows its prompt to the eye, not merely to the nearest template.

`verifier` names every object by the nearest of six shapes, so a trained model can live between them: a rounded square
passes for a circle, a pinched cross for a diamond. Here an object has a name only if it is close to what would be drawn
and far from what else could be, and whatever can be seen counts as an object. Never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy import ndimage

from advantageflow.worlds.scenes.prompts import parse_prompt
from advantageflow.worlds.scenes.verifier import (
    OPAQUE,
    TEMPLATE_SIZE,
    Detection,
    color_of_pixels,
    judge,
    thumbnail,
    verify,
)
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS, SHAPES, coverage

SHAPE_ERROR = 0.06  # mean absolute difference to the nearest rendering, at most
SHAPE_MARGIN = 2 / 3  # by which it is nearer than any other shape, as a share of the distance between the two, at least
ASPECT = 1.2  # of width and height, at most
COLOR_ERROR = (
    34  # of 255, off the line from the ground to the colour; a third of the least distance between two colours
)
FULL = 0.8  # opacity of an object's inside, at least
SPECK = 8  # pixels; what is smaller is not seen
FAINT = 0.25  # opacity from which something can be seen
HALO = 2  # pixels around an object that belong to its blurred edge
BLURS = (0.0, 0.6, 1.0)  # standard deviations in pixels of the renderings


def verify_exact(images: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """1 for each image, uint8 [batch, 64, 64, 3], that is strictly right and all of whose objects are clear, else 0.

    Raises:
        ValueError: see `verifier.verify`.
    """
    strict = [verdict.strict for verdict in verify(images, prompts)]
    return [
        judge(detect_clear(image), parse_prompt(text)).strict if right else 0.0
        for image, text, right in zip(images, prompts, strict, strict=True)
    ]


def detect_clear(image: np.ndarray) -> list[Detection]:
    """All that can be seen in an image, uint8 [64, 64, 3]; shape or colour is None where it is not clear."""
    nearest, opacity = color_of_pixels(image)
    found, explained = [], np.zeros(nearest.shape, dtype=bool)
    for index in np.unique(nearest[opacity > OPAQUE]):
        for region in _regions((opacity > OPAQUE) & (nearest == index)):
            found.append(_named(image, region, np.where(nearest == index, opacity, 0), int(index)))
            explained |= region
    explained = ndimage.binary_dilation(explained, np.ones((3, 3)), iterations=HALO)
    faint = _regions((opacity > FAINT) & ~explained)
    return found + [Detection(None, None, *_place(region)) for region in faint]


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask that can be seen."""
    labels, count = ndimage.label(mask)
    parts = [labels == label for label in range(1, count + 1)]
    return [part for part in parts if part.sum() >= SPECK]


def _named(image: np.ndarray, region: np.ndarray, opacity: np.ndarray, index: int) -> Detection:
    inside = region & (opacity >= np.median(opacity[region]))
    full = float(np.median(opacity[inside]))
    color = np.array(list(COLORS.values())[index], dtype=float) - BACKGROUND
    seen = image[inside] - np.array(BACKGROUND, dtype=float)
    off = np.linalg.norm(seen - np.outer(seen @ color / (color @ color), color), axis=1)
    clear = full >= FULL and off.mean() <= COLOR_ERROR
    (box,) = ndimage.find_objects(region.astype(int))
    shape = _clear_shape(np.clip(opacity[box] / full, 0, 1)) if full >= FULL else None
    return Detection(shape, list(COLORS)[index] if clear else None, *_place(region))


def _place(region: np.ndarray) -> tuple[float, float, int, int]:
    """Centre and size of a region's box."""
    ((rows, columns),) = ndimage.find_objects(region.astype(int))
    centre = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    return *centre, columns.stop - columns.start, rows.stop - rows.start


def _clear_shape(opacity: np.ndarray) -> str | None:
    if max(opacity.shape) > ASPECT * min(opacity.shape):
        return None
    fit = _fit(thumbnail(opacity))
    return SHAPES[fit.shape] if fit.error <= SHAPE_ERROR and fit.margin >= SHAPE_MARGIN else None


@dataclass(frozen=True)
class Fit:
    """The nearest shape, the difference to its nearest rendering, and the margin to the other shapes (at most 1)."""

    shape: int
    error: float
    margin: float


def _fit(seen: np.ndarray) -> Fit:
    errors = np.abs(_renderings() - seen.astype(np.float32)).mean((2, 3))  # [shapes, renderings]
    nearest = errors.min(1)
    best = int(nearest.argmin())
    apart = _distances(best, int(errors[best].argmin()))
    others = [i for i in range(len(SHAPES)) if i != best]
    return Fit(best, float(nearest[best]), float(min((nearest[i] - nearest[best]) / apart[i] for i in others)))


@cache
def _distances(shape: int, rendering: int) -> np.ndarray:
    """Of one rendering to each shape's nearest: [shapes]."""
    distances: np.ndarray = np.abs(_renderings() - _renderings()[shape, rendering]).mean((2, 3)).min(1)
    return distances


@lru_cache
def _renderings() -> np.ndarray:
    """Each shape at many sizes, sub-pixel positions and blurs: [shapes, renderings, TEMPLATE_SIZE, TEMPLATE_SIZE]."""
    side = 40
    rows, columns = np.mgrid[0:side, 0:side] + 0.5 - side / 2
    bank = []
    for shape in SHAPES:
        for radius in np.arange(6.0, 13.1, 0.25):
            for right, down in np.ndindex(3, 3):
                sharp = coverage(shape, columns - right / 3, rows - down / 3, radius)
                for blur in BLURS:
                    alpha = ndimage.gaussian_filter(sharp, blur)
                    (box,) = ndimage.find_objects((alpha > OPAQUE).astype(int))
                    bank.append(thumbnail(alpha[box]))
    return np.array(bank, dtype=np.float32).reshape(len(SHAPES), -1, TEMPLATE_SIZE, TEMPLATE_SIZE)
