"""Text rendering: does the picture show the words that its prompt puts in quotation marks?

The formula is that of arXiv 2505.05470 and 2509.16117; the reader is rapidocr (PP-OCR models inside its package) in
place of PaddleOCR, which does not install beside other rewards.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from advantageflow.errors import cut, shown
from advantageflow.pictures import to_pil
from advantageflow.rewards.quotes import comparable, quoted_texts
from advantageflow.rewards.quotes import quoted_text as quoted_text


class Reader(Protocol):
    def __call__(self, image: np.ndarray) -> list[str]:
        """The texts found in an RGB image, uint8 [height, width, 3]."""


class OCR:
    """1 - distance / length of the wanted text, in [0, 1]; 1 if the wanted text is anywhere in what was read.

    Args:
        reader: finds texts in an image; rapidocr by default.
    """

    def __init__(self, reader: Reader | None = None) -> None:
        self.reader = reader or rapidocr_reader()

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError if the prompt cannot be scored."""
        quoted_text(prompt)

    def understood(self, prompt: str) -> str:
        """What is wanted, for `rewards check`."""
        others = quoted_texts(prompt)[1:]
        return f"wants {shown(quoted_text(prompt))}" + (
            f", and does not look for {cut(', '.join(map(repr, others)))}" * bool(others)
        )

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width].

        Raises:
            ValueError: a prompt quotes no text.
        """
        wanted = [quoted_text(prompt) for prompt in prompts]
        return [
            similarity(target, "".join(self.reader(np.asarray(picture))))
            for target, picture in zip(wanted, to_pil(images), strict=True)
        ]


class DrawnWord(OCR):
    """The same for pictures of the built-in words: their middle half is read as one line, with no search for text."""

    def __init__(self, reader: Reader | None = None) -> None:
        super().__init__(reader or rapidocr_line_reader())

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        height = images.shape[2]
        return super().__call__(images[:, :, height // 4 : height - height // 4], prompts)


def similarity(wanted: str, found: str) -> float:
    """1 - min(edit distance, length) / length, of what `comparable` leaves of both; 1 if `found` contains `wanted`."""
    wanted, found = comparable(wanted), comparable(found)
    if wanted in found:
        return 1.0
    return 1 - min(edit_distance(wanted, found), len(wanted)) / len(wanted)


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions."""
    previous = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (letter != other)))
        previous = current
    return previous[-1]


def rapidocr_reader() -> Reader:
    """rapidocr with the models of its package: lines of text anywhere in the image."""
    return _reader(use_det=True, params={})


def rapidocr_line_reader() -> Reader:
    """Its recogniser alone, for a short line of text that fills the image: 9 ms on one thread."""
    return _reader(use_det=False, params={"Rec.rec_img_shape": [3, 48, 160]})


def _reader(use_det: bool, params: dict[str, Any]) -> Reader:
    from rapidocr import RapidOCR

    # one thread: images are many and small
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": 1}
    engine: Any = RapidOCR(params={"Global.log_level": "error", **threads, **params})

    def read(image: np.ndarray) -> list[str]:
        found = engine(image[..., ::-1], use_det=use_det, use_cls=False, use_rec=True)  # it takes BGR
        pairs = zip(found.txts or (), found.scores or (), strict=True)
        return [text for text, confidence in pairs if confidence > 0]

    return read
