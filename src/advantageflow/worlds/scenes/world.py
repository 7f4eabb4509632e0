"""The drawn world: shapes, colours, relations, and scenes rendered from them.

A scene is a 64x64 RGB picture of one to four flat shapes on a dark ground. It is the smallest world in which all six
tasks of GenEval (Ghosh et al., 2023) exist, and code can both draw it and check it (`verifier`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = 64
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 60),
    "orange": (250, 130, 20),
    "yellow": (250, 225, 60),
    "green": (60, 180, 80),
    "blue": (60, 120, 240),
    "purple": (165, 80, 220),
    "white": (240, 240, 235),
}
BACKGROUND = (24, 26, 36)
# Unit steps (dx, dy) from the second object of a prompt to the first; y grows downwards, as in image rows.
RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
MAX_COUNT = 4


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; centre (x, y) and half-width `radius` in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


Scene = tuple[SceneObject, ...]


def coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Opacity in [0, 1] of a shape at pixel offsets (dx, dy) from its centre: its signed distance, antialiased."""
    across, down = np.abs(dx), np.abs(dy)
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(across, down) - 0.92 * radius
    elif shape == "diamond":
        distance = (across + down - 1.05 * radius) / np.sqrt(2)
    elif shape == "triangle":
        slanted = (2 * across - dy - radius) / np.sqrt(5)
        distance = np.maximum(slanted, dy - radius)
    elif shape == "cross":
        arm = 0.36 * radius
        distance = np.maximum(np.maximum(across, down) - radius, np.minimum(across, down) - arm)
    elif shape == "ring":
        distance = np.abs(np.hypot(dx, dy) - 0.76 * radius) - 0.24 * radius
    else:
        raise ValueError(f"unknown shape {shape!r}; the world has {', '.join(SHAPES)}")
    opacity: np.ndarray = np.clip(0.5 - distance, 0.0, 1.0)
    return opacity


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 [64, 64, 3]. Later objects cover earlier ones."""
    rows, columns = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] + 0.5
    image = np.broadcast_to(np.array(BACKGROUND, dtype=np.float64), (IMAGE_SIZE, IMAGE_SIZE, 3))
    for item in scene:
        alpha = coverage(item.shape, columns - item.x, rows - item.y, item.radius)[..., None]
        image = (1 - alpha) * image + alpha * np.array(COLORS[item.color], dtype=np.float64)
    return np.rint(image).astype(np.uint8)
