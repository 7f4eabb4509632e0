"""Image grids with their prompts and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw
from torch import Tensor

from advantageflow.pictures import to_pil
from advantageflow.run.captions import caption

if TYPE_CHECKING:
    from advantageflow.evaluation import Evaluation

COLUMNS = 6
CELL = 192  # pixels; small images are enlarged to it without smoothing
TYPE = 13  # pixels
README_TYPE = 18  # of what README shows at two thirds of its size
LINES = 3  # of prompts, and as many of scores
GAP = 8
PAPER, INK, GOOD, BAD = (255, 255, 255), (40, 40, 40), (20, 130, 60), (190, 40, 40)


def labelled_grid(shown: Evaluation, title: str = "", columns: int = COLUMNS, count: int | None = None) -> Image.Image:
    """The images of an evaluation, at most `count`, each above its prompt and its scores."""
    cells = [
        _cell(shown.images[i], shown.prompts[i], {label: values[i].item() for label, values in shown.by_image.items()})
        for i in range(len(shown.prompts))[:count]
    ]
    return _arrange(cells, columns, title)


def stack(grids: list[Image.Image]) -> Image.Image:
    """Grids one below another."""
    page = Image.new("RGB", (max(grid.width for grid in grids), sum(grid.height for grid in grids)), PAPER)
    top = 0
    for grid in grids:
        page.paste(grid, (0, top))
        top += grid.height
    return page


def before_and_after(before: Evaluation, after: Evaluation, count: int = 12) -> Image.Image:
    """The first `count` images of two policies side by side, from the same prompts and noise, with the first score."""
    label = next(iter(before.by_image))
    halves = []
    for shown, title in ((before, "before"), (after, "after")):
        scores = shown.by_image[label]
        cells = [
            _cell(shown.images[i], shown.prompts[i], {label: scores[i].item()}, README_TYPE)
            for i in range(min(count, len(shown.prompts)))
        ]
        halves.append(_arrange(cells, 3, title))
    left, right = halves
    page = Image.new("RGB", (left.width + right.width + 2 * GAP, max(left.height, right.height)), PAPER)
    page.paste(left, (0, 0))
    page.paste(right, (left.width + 2 * GAP, 0))
    return page


def _cell(image: Tensor, prompt: str, scores: dict[str, float], size: int = TYPE) -> Image.Image:
    """A picture above its prompt and its scores."""
    picture = to_pil(image.unsqueeze(0))[0]
    smooth = Image.Resampling.NEAREST if picture.width < CELL else Image.Resampling.LANCZOS
    height = max(1, round(CELL * picture.height / picture.width))
    picture = picture.resize((CELL, height), smooth)
    judgement = {0.0: BAD, 1.0: GOOD}.get(next(iter(scores.values()), 0.5), INK)
    numbers = "  ".join(f"{label} {value:.2f}" for label, value in scores.items())
    told = [(*caption(text, size, CELL, LINES), ink) for text, ink in ((prompt, INK), (numbers, judgement))]
    line = round(1.3 * size)
    cell = Image.new("RGB", (CELL, height + GAP + line * sum(len(lines) for lines, _, _ in told)), PAPER)
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    top = height + 3
    for lines, font, ink in told:
        for text in lines:
            draw.text((0, top), text, fill=ink, font=font)
            top += line
    return cell


def _arrange(cells: list[Image.Image], columns: int, title: str) -> Image.Image:
    """Cells row by row, each row as high as its highest."""
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    top = 34 if title else GAP
    heights = [max(cell.height for cell in row) for row in rows]
    page = Image.new("RGB", (len(rows[0]) * (CELL + GAP) + GAP, top + sum(heights) + GAP * len(rows)), PAPER)
    if title:
        lines, font = caption(title, 20, page.width - 2 * GAP, 1)
        ImageDraw.Draw(page).text((GAP, 4), lines[0], fill=INK, font=font)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (GAP + column * (CELL + GAP), top))
        top += height + GAP
    return page
