"""Image grids with their prompts and scores."""

from __future__ import annotations

from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from advantageflow.evaluation import Evaluation
from advantageflow.pictures import to_pil

COLUMNS = 6
CELL = 192  # pixels; small images are enlarged to it without smoothing
LINE_LENGTH, LINE_HEIGHT = 30, 16  # of captions: characters and pixels
CAPTION = 4 * LINE_HEIGHT
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
    """The first `count` images of two policies side by side, from the same prompts and noise."""
    label = next(iter(before.by_image))
    halves = []
    for shown, title in ((before, "before"), (after, "after")):
        scores = shown.by_image[label]
        cells = [
            _cell(shown.images[i], shown.prompts[i], {label: scores[i].item()})
            for i in range(min(count, len(shown.prompts)))
        ]
        halves.append(_arrange(cells, 4, title))
    page = Image.new("RGB", (sum(half.width for half in halves) + 3 * GAP, halves[0].height), PAPER)
    page.paste(halves[0], (0, 0))
    page.paste(halves[1], (halves[0].width + 3 * GAP, 0))
    return page


def _cell(image: Tensor, prompt: str, scores: dict[str, float]) -> Image.Image:
    picture = to_pil(image.unsqueeze(0))[0]
    smooth = Image.Resampling.NEAREST if picture.width < CELL else Image.Resampling.LANCZOS
    picture = picture.resize((CELL, CELL), smooth)
    cell = Image.new("RGB", (CELL, CELL + CAPTION), PAPER)
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    judgement = {0.0: BAD, 1.0: GOOD}.get(next(iter(scores.values()), 0.5), INK)
    numbers = "  ".join(f"{label} {value:.2f}" for label, value in scores.items())
    top = CELL + 3
    for text, ink in ((prompt, INK), (numbers, judgement)):
        lines = wrap(text, LINE_LENGTH, max_lines=2, placeholder="...")
        draw.multiline_text((0, top), "\n".join(lines), fill=ink, font=ImageFont.load_default(12), spacing=3)
        top += LINE_HEIGHT * len(lines)
    return cell


def _arrange(cells: list[Image.Image], columns: int, title: str) -> Image.Image:
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    top = 30 if title else GAP
    page = Image.new("RGB", (columns * (CELL + GAP) + GAP, top + rows * (CELL + CAPTION + GAP)), PAPER)
    if title:
        ImageDraw.Draw(page).text((GAP, 5), title, fill=INK, font=ImageFont.load_default(18))
    for i, cell in enumerate(cells):
        page.paste(cell, (GAP + i % columns * (CELL + GAP), top + i // columns * (CELL + CAPTION + GAP)))
    return page
