"""Text under pictures: in a font that has its characters, and never wider than its place."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby

from PIL import ImageFont

ELLIPSIS = "…"
UNLIKE = re.compile("bold|italic|oblique|mono|black|light|condensed|narrow", re.IGNORECASE)  # in names of files


def caption(text: str, size: int, width: float, most: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """A text as at most so many lines, and the font that it is drawn in; what does not fit ends in an ellipsis.

    Characters that no font of this machine has are told by their number.

    Args:
        size: of the type, in pixels.
        width: of a line, in pixels.
        most: lines.
    """
    file = font_file(frozenset(text))
    font = ImageFont.truetype(file, size)
    lines = _wrapped(marked(text, characters(file)).split(), font, width)
    if len(lines) > most:
        rest = " ".join(lines[most - 1 :])
        short = rest[: _fitting(rest, font, width - font.getlength(ELLIPSIS))]
        lines = [*lines[: most - 1], short.rstrip() + ELLIPSIS]
    return lines, font


def marked(text: str, has: frozenset[int]) -> str:
    """The text, with "[3 characters]" where three in a row are not among those that a font has."""

    def lacks(character: str) -> bool:
        return ord(character) not in has and not character.isspace()

    parts = ((missing, "".join(run)) for missing, run in groupby(text, lacks))
    return "".join(f"[{len(run)} character{'s'[: len(run) > 1]}]" if missing else run for missing, run in parts)


def _wrapped(words: list[str], font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines that fit; words are broken where they are wider than a line."""
    lines = [""]
    for word in words:
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while len(word) > 1 and font.getlength(word) > width:
            cut = _fitting(word, font, width)
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    """How many of a text's first characters fit in a line; at least one."""
    count = 1
    while count < len(text) and font.getlength(text[: count + 1]) <= width:
        count += 1
    return count


@cache
def font_file(wanted: frozenset[str]) -> str:
    """Of the font that has the most of some characters."""
    needed = {ord(character) for character in wanted if not character.isspace()}
    best, fewest = "", len(needed) + 1
    for file in _files():
        missing = len(needed - characters(file))
        if missing < fewest:
            best, fewest = file, missing
        if not fewest:
            break
    return best


@cache
def _files() -> tuple[str, ...]:
    """Fonts of this machine: matplotlib's own first, then plain ones before bold and slanted ones."""
    from matplotlib import font_manager, get_data_path

    found = sorted(font_manager.findSystemFonts(), key=lambda file: (bool(UNLIKE.search(file)), file))
    return (f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", *found)


@cache
def characters(file: str) -> frozenset[int]:
    """Code points that a font has; none where it is not one of outlines."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError):
        return frozenset()
