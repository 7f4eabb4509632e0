"""One colour per method, the same in every figure and page, whatever else is drawn there."""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections.abc import Sequence

Color = tuple[str, str]  # on light and on dark paper
BLUE, ORANGE = ("#0b66c3", "#6cb2ff"), ("#c9480b", "#ff9a66")
GREEN, PURPLE = ("#137f4b", "#5fd39a"), ("#8f3bb0", "#d59bf0")
METHODS: dict[str, Color] = {
    "AdvantageFlow(1-A)": BLUE,
    **dict.fromkeys(("AdvantageFlow(1.1)", "advantageflow", "scenes"), ORANGE),
    **dict.fromkeys(("DiffusionNFT", "nft", "scenes-nft"), GREEN),
    **dict.fromkeys(("Flow-GRPO", "flow-grpo", "scenes-flow-grpo"), PURPLE),
}
# variants that stand beside each other in the stored figures
VARIANTS: dict[str, Color] = {
    "DiffusionNFT, curvature 1": ("#946200", "#e8b84a"),
    "DiffusionNFT, plain squares": ("#127680", "#5fd0dc"),
    "DiffusionNFT, eq. 6": ("#5a606b", "#b8bec8"),
    "DiffusionNFT, curvature 1, plain squares": ("#bf2a5d", "#ff8aae"),
    "AdvantageFlow(1-A), divided by errors": ("#7a4a2b", "#d6a687"),
}


def color_of(label: str) -> Color:
    """Of a method, on light and on dark paper; of labels that are not known, by their letters alone.

    An objective with its γ, "advantageflow-1.1", is the method "AdvantageFlow(1.1)".
    """
    name = re.sub(r"^advantageflow-(.+)$", r"AdvantageFlow(\1)", label)
    known = METHODS | VARIANTS
    if name in known:
        return known[name]
    hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return _hex(hue, 0.40, 0.75), _hex(hue, 0.72, 0.75)


def palette(labels: Sequence[str]) -> list[Color]:
    """Of methods side by side; where several have one colour, all but the first are given others."""
    found: list[Color] = []
    for label in labels:
        color = color_of(label)
        others = [variant for variant in VARIANTS.values() if variant not in found] or [color]
        found.append(others[0] if color in found else color)
    return found


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))
