"""The exact verifier of the drawn world, in the way of GenEval: find objects by colour and shape, check the prompt.

Two scores per image, both in [0, 1] and higher is better (`exact.py` has a third, for which the nearest is not enough):

* strict: 1 if every object, count, colour and relation is right and nothing is extra, else 0: every object is named by
  the nearest of six shapes and seven colours. Never trained on.
* graded: how much of the prompt is right; the training reward. Missing and extra objects both lower it, so drawing less
  never pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from advantageflow.worlds.scenes.prompts import ScenePrompt, Wanted, parse_prompt
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS, IMAGE_SIZE, RELATIONS, SHAPES, coverage

OPAQUE = 0.5  # share of a colour over the ground from which a pixel belongs to an object
SMALLEST_AREA = 20  # pixels; smaller specks are not objects
TEMPLATE_SIZE = 16
SHAPE_TOLERANCE = 0.17  # mean absolute difference to the nearest shape template above which the shape is unknown
LONGEST_ASPECT = 1.4


@dataclass(frozen=True)
class Detection:
    """An object found in an image; `shape` is None if it resembles none. Centre and size in pixels."""

    shape: str | None
    color: str | None  # None, in `exact`: between two names
    x: float
    y: float
    width: int
    height: int


@dataclass(frozen=True)
class Verdict:
    strict: float
    graded: float


def detect(image: np.ndarray) -> list[Detection]:
    """Find the objects of one image, uint8 [64, 64, 3]."""
    nearest, opacity = color_of_pixels(image)
    opaque = opacity > OPAQUE
    found = []
    for index in np.unique(nearest[opaque]):
        mine = nearest == index
        labels, _ = ndimage.label(opaque & mine)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            region = labels[box] == label
            if region.sum() < SMALLEST_AREA:
                continue
            rows, columns = box
            found.append(
                Detection(
                    shape=_shape(region, np.where(mine[box], opacity[box], 0)),
                    color=list(COLORS)[index],
                    x=(columns.start + columns.stop) / 2,
                    y=(rows.start + rows.stop) / 2,
                    width=columns.stop - columns.start,
                    height=rows.stop - rows.start,
                )
            )
    return found


def color_of_pixels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's nearest colour, and its share over the ground: both [64, 64]."""
    difference = image.reshape(-1, 3).astype(np.float32) - np.array(BACKGROUND, dtype=np.float32)
    directions = np.array(list(COLORS.values()), dtype=np.float32) - np.array(BACKGROUND, dtype=np.float32)
    lengths = np.linalg.norm(directions, axis=1)
    along = difference @ (directions / lengths[:, None]).T
    nearest = along.argmax(1)  # the smallest angle to the ground -> colour direction
    opacity = np.take_along_axis(along / lengths, nearest[:, None], 1)
    return nearest.reshape(IMAGE_SIZE, IMAGE_SIZE), opacity.reshape(IMAGE_SIZE, IMAGE_SIZE)


def _shape(region: np.ndarray, opacity: np.ndarray) -> str | None:
    height, width = region.shape
    if max(height, width) > LONGEST_ASPECT * min(height, width):
        return None
    errors = np.abs(_templates() - thumbnail(np.clip(opacity, 0, 1))).mean((1, 2))
    best = int(errors.argmin())
    return SHAPES[best] if errors[best] <= SHAPE_TOLERANCE else None


def thumbnail(opacity: np.ndarray) -> np.ndarray:
    """A crop of any size, resampled bilinearly to TEMPLATE_SIZE²."""
    height, width = opacity.shape
    weights = [_resampling(height), _resampling(width)]
    return np.asarray(weights[0] @ opacity @ weights[1].T)


@lru_cache
def _resampling(length: int) -> np.ndarray:
    """Rows that interpolate TEMPLATE_SIZE samples linearly out of `length` pixels."""
    position = np.clip((np.arange(TEMPLATE_SIZE) + 0.5) * length / TEMPLATE_SIZE - 0.5, 0, length - 1)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(length)[None]))
    return weights


@lru_cache
def _templates() -> np.ndarray:
    """The mean thumbnail of each shape over sizes and sub-pixel positions: [shapes, TEMPLATE_SIZE, TEMPLATE_SIZE]."""
    rows, columns = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] + 0.5
    means = []
    for shape in SHAPES:
        thumbnails = []
        for radius in np.arange(7.0, 13.0, 0.5):
            for shift in (0.0, 0.25, 0.5, 0.75):
                alpha = coverage(shape, columns - 32 - shift, rows - 32 - shift / 2, radius)
                (box,) = ndimage.find_objects((alpha > OPAQUE).astype(int))
                thumbnails.append(thumbnail(alpha[box]))
        means.append(np.mean(thumbnails, axis=0))
    return np.stack(means)


def judge(detections: Sequence[Detection], prompt: ScenePrompt) -> Verdict:
    """Score detected objects against a prompt.

    Every wanted object is matched to one detection so that the most attributes agree; a pair earns the share of its
    asked attributes (shape, and colour if named) that are right. The graded score is the sum over pairs divided by the
    larger of the numbers of wanted and found objects; a prompt with a relation gives half of that, and the other half
    only if both objects and the relation are right.
    """
    wanted = [item for item in prompt.wanted for _ in range(item.count)]
    if not detections:
        return Verdict(0.0, 0.0)
    credit = np.array([[_credit(item, seen) for seen in detections] for item in wanted])
    rows, columns = linear_sum_assignment(credit, maximize=True)
    matched = credit[rows, columns]
    graded = float(matched.sum()) / max(len(wanted), len(detections))
    complete = len(matched) == len(wanted) and bool((matched == 1).all())
    if prompt.relation is not None:
        related = complete and holds(prompt.relation, detections[columns[0]], detections[columns[1]])
        graded, complete = graded * (1.0 if related else 0.5), related
    return Verdict(float(complete and len(detections) == len(wanted)), graded)


def _credit(item: Wanted, seen: Detection) -> float:
    right = [seen.shape == item.shape] + ([seen.color == item.color] if item.color else [])
    return sum(right) / len(right)


def holds(relation: str, first: Detection, second: Detection) -> bool:
    """GenEval's rule: after a tolerance of a tenth of both sizes, the direction is within 60° of the relation's."""
    offset = np.array([first.x - second.x, first.y - second.y])
    slack = 0.1 * np.array([first.width + second.width, first.height + second.height])
    offset = np.sign(offset) * np.maximum(np.abs(offset) - slack, 0)
    length = float(np.linalg.norm(offset))
    return length > 0 and float(offset @ np.array(RELATIONS[relation])) / length > 0.5


def verify(images: np.ndarray, prompts: Sequence[str]) -> list[Verdict]:
    """Score images, uint8 [batch, 64, 64, 3], each against its prompt.

    Raises:
        ValueError: an image of another size, a count that differs from the prompts', or a prompt outside the grammar.
    """
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 images [batch, {IMAGE_SIZE}, {IMAGE_SIZE}, 3], got {images.dtype} {images.shape}"
        )
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
    return [judge(detect(image), parse_prompt(text)) for image, text in zip(images, prompts, strict=True)]
