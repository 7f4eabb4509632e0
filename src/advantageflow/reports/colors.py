"""One colour per method, the same in every figure and page, whatever else is drawn there."""

from __future__ import annotations

import colorsys
import dataclasses
import hashlib
from collections.abc import Sequence

from advantageflow.config import load_config, recipe_names
from advantageflow.methods import label_of, split_label

Color = tuple[str, str]  # on light and on dark paper
# for what stands beside its own method: "METHOD, what differs", or the same method once more
SPARE: tuple[Color, ...] = (
    ("#946200", "#e8b84a"),
    ("#127680", "#5fd0dc"),
    ("#5a606b", "#b8bec8"),
    ("#bf2a5d", "#ff8aae"),
    ("#7a4a2b", "#d6a687"),
)


def color_of(label: str) -> Color:
    """Of a method, by any name that it has or by a recipe's; of other labels, by their letters alone.

    A method's name with a setting, "advantageflow-1.1", is the method "AdvantageFlow(1.1)".
    """
    name = label_of(load_config(label).objective) if label in recipe_names() else label
    found = split_label(name)
    if found is None:
        return _of_text(label)
    method, value = found
    if value is None and method.short:
        defaults = {field.name: field.default for field in dataclasses.fields(method)}
        value = str(defaults[method.short[0]])
    return method.colors.get(value or "") or _of_text(f"{method.title}({value})" if value else method.title)


def palette(labels: Sequence[str]) -> list[Color]:
    """Of methods side by side; variants, and all but the first of those with one colour, are given spare ones."""
    found: dict[int, Color] = {}
    for place, label in enumerate(labels):
        color = color_of(label)
        if not _is_variant(label) and color not in found.values():
            found[place] = color
    for place, label in enumerate(labels):
        if place not in found:
            found[place] = next((spare for spare in SPARE if spare not in found.values()), color_of(label))
    return [found[place] for place in range(len(labels))]


def _is_variant(label: str) -> bool:
    """Whether it says "METHOD, what differs"."""
    name, comma, _ = label.partition(", ")
    return bool(comma) and split_label(name) is not None


def _of_text(text: str) -> Color:
    hue = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return _hex(hue, 0.40, 0.75), _hex(hue, 0.72, 0.75)


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))
