"""GenEval (Ghosh et al., 2023): are the right objects there, in the right number, colour and place?

A detector trained on COCO finds objects, CLIP names their colours, rules do the rest. The rules are those of the
official evaluation and of the training reward in the code of arXiv 2505.05470 and 2509.16117. mmdetection, which both
use, does not install beside other rewards; transformers' Mask2Former with the same backbone and data takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advantageflow.pictures import to_pil
from advantageflow.prompts.geneval import COLORS, OBJECTS, GenEvalPrompt, parse_prompt
from advantageflow.rewards import CLIP_L, MASK2FORMER

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_OBJECTS = 16
POSITION_THRESHOLD = 0.1


@dataclass(frozen=True)
class Detection:
    """One object: box (left, top, right, bottom) in pixels, confidence in [0, 1], and which pixels are its own."""

    box: tuple[float, float, float, float]
    score: float
    mask: np.ndarray | None = None


Detections = dict[str, list[Detection]]  # by GenEval's object name
ColorsOf = Callable[[list[Detection], str], list[str]]


def relations(one: Detection, other: Detection) -> set[str]:
    """How `one` lies to `other`: by the direction between the centres, after a tenth of both sizes is taken off."""
    boxes = np.array([one.box, other.box])
    (center, other_center), (size, other_size) = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = center - other_center
    reduced = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_THRESHOLD * (size + other_size), 0)
    if np.all(np.abs(reduced) < 1e-3):
        return set()
    across, down = reduced / np.linalg.norm(offset)
    found = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, holds in found.items() if holds}


def confident(detections: Detections, prompt: GenEvalPrompt) -> Detections:
    """At most 16 detections of each object, best first, above the task's threshold."""
    threshold = COUNTING_THRESHOLD if prompt.tag == "counting" else THRESHOLD
    return {
        name: sorted((one for one in found if one.score > threshold), key=lambda one: -one.score)[:MAX_OBJECTS]
        for name, found in detections.items()
    }


def correct(detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf) -> float:
    """The official accuracy, 0 or 1: everything is there, and not too often where that is excluded."""
    found = confident(detections, prompt)
    too_many = any(len(found.get(name, [])) >= count for name, count in prompt.exclude)
    return float(not too_many and _all_hold(found, prompt, colors_of, exactly=False))


def strict(detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf) -> float:
    """0 or 1: exactly the wanted number of everything (`strict_correct` in arXiv 2505.05470's code)."""
    return float(_all_hold(confident(detections, prompt), prompt, colors_of, exactly=True))


def _all_hold(found: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf, exactly: bool) -> bool:
    groups: list[list[Detection]] = []
    for clause in prompt.include:
        group = found.get(clause.name, [])
        if len(group) < clause.count or (exactly and len(group) > clause.count):
            return False
        group = group[: clause.count]
        if clause.color and colors_of(group, clause.name).count(clause.color) < clause.count:
            return False
        if clause.position and not _lies(group, clause.position[0], groups[clause.position[1]]):
            return False
        groups.append(group)
    return True


def _lies(group: list[Detection], relation: str, others: list[Detection]) -> bool:
    return all(relation in relations(one, other) for one in group for other in others)


def graded(
    detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf, *, official_quirk: bool = False
) -> float:
    """The training reward: the mean over clauses of how nearly counts and colours fit, and whether positions do.

    A wrong count gives 1 - |n - found| / n, which is negative when far too many are found, at most 1. The official code
    answers a wrong position with a 0 and a 1 (so it costs less than it should); `official_quirk` does too.
    """
    found = confident(detections, prompt)
    terms: list[float] = []
    groups: list[list[Detection] | None] = []
    for clause in prompt.include:
        group = found.get(clause.name, [])
        holds = len(group) == clause.count
        terms.append(1 - abs(clause.count - len(group)) / clause.count)
        if not holds and (clause.color or clause.position):
            terms.append(0.0)
        if holds and clause.color:
            right = colors_of(group, clause.name).count(clause.color)
            terms.append(1 - abs(clause.count - right) / clause.count)
            holds = right == clause.count
        if holds and clause.position:
            others = groups[clause.position[1]]
            holds = others is not None and _lies(group, clause.position[0], others)
            terms.append(float(holds))
            if official_quirk and others is not None and not holds:
                terms.append(1.0)
        groups.append(group if holds else None)
    return sum(terms) / len(terms)


class GenEval:
    """The training reward, at most 1 (usually in [0, 1]), of GenEval's own prompts.

    Args:
        detect: pictures -> what is in each.
        classify: (picture, detections, object name) -> the colour of each detection.
    """

    def __init__(self, detect: Any = None, classify: Any = None) -> None:
        self.detect, self.classify = detect or mask2former(), classify or color_classifier()

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError if the prompt cannot be scored."""
        parse_prompt(prompt)

    def judge(self, detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf) -> float:
        """The score of one image."""
        return graded(detections, prompt, colors_of)

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width].

        Raises:
            ValueError: a prompt is not one of GenEval's.
        """
        wanted = [parse_prompt(prompt) for prompt in prompts]
        pictures = to_pil(images)
        scores = []
        for picture, detections, prompt in zip(pictures, self.detect(pictures), wanted, strict=True):

            def colors_of(group: list[Detection], name: str, picture: Image.Image = picture) -> list[str]:
                return self.classify(picture, group, name)  # type: ignore[no-any-return]

            scores.append(self.judge(detections, prompt, colors_of))
        return scores


class GenEvalStrict(GenEval):
    """0 or 1: every object, and no more of it, in its colour and place."""

    def judge(self, detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf) -> float:
        return strict(detections, prompt, colors_of)


class GenEvalAccuracy(GenEval):
    """0 or 1, by the official evaluation."""

    def judge(self, detections: Detections, prompt: GenEvalPrompt, colors_of: ColorsOf) -> float:
        return correct(detections, prompt, colors_of)


@lru_cache(maxsize=1)
def mask2former() -> Any:
    """The detector: pictures -> `Detections` of each."""
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil

    from advantageflow.rewards.hub import from_hub, reward_device

    model = from_hub(Mask2FormerForUniversalSegmentation, MASK2FORMER).eval().to(reward_device())
    return Mask2FormerDetector(model, from_hub(Mask2FormerImageProcessorPil, MASK2FORMER))


class Mask2FormerDetector:
    """Instance segmentation with a transformers model whose labels are COCO's 80, in COCO's order."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> list[Detections]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Image.Image) -> Detections:
        outputs = self.model(**self.processor(images=picture, return_tensors="pt").to(self.model.device))
        found = self.processor.post_process_instance_segmentation(
            outputs, threshold=THRESHOLD, target_sizes=[(picture.height, picture.width)], return_binary_maps=True
        )[0]
        detections: Detections = {}
        if not found["segments_info"]:
            return detections
        for segment, map_ in zip(found["segments_info"], found["segmentation"], strict=True):
            mask = map_.cpu().numpy() > 0
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                one = Detection(tuple(map(float, box)), segment["score"], mask)  # type: ignore[arg-type]
                detections.setdefault(OBJECTS[segment["label_id"]], []).append(one)
        return detections


@lru_cache(maxsize=1)
def color_classifier() -> Any:
    from advantageflow.rewards.clip import Clip

    return ColorClassifier(Clip.load(CLIP_L))


class ColorClassifier:
    """Names the colour of objects by CLIP: each is cut out, set on grey, and compared with sentences about colours."""

    def __init__(self, clip: Any) -> None:
        self.clip = clip
        self._sentences: dict[str, Tensor] = {}

    def __call__(self, picture: Image.Image, group: list[Detection], name: str) -> list[str]:
        from advantageflow.rewards.clip import prepare_pictures

        crops = [_cut_out(picture, one) for one in group]
        embedded = self.clip.embed_images(prepare_pictures(crops, self.clip.image_size))
        return [COLORS[best] for best in (embedded @ self._embed_colors(name).T).argmax(-1).tolist()]

    def _embed_colors(self, name: str) -> Tensor:
        """One unit vector per colour: the mean over three sentences, [colours, width]."""
        if name not in self._sentences:
            sentences = [
                sentence
                for color in COLORS
                for sentence in (
                    f"a photo of a {color} {name}",
                    f"a photo of a {color}-colored {name}",
                    f"a photo of a {color} object",
                )
            ]
            means = self.clip.embed_texts(sentences).unflatten(0, (len(COLORS), 3)).mean(1)
            self._sentences[name] = torch.nn.functional.normalize(means, dim=-1)
        return self._sentences[name]


def _cut_out(picture: Image.Image, one: Detection) -> Image.Image:
    if one.mask is not None:
        grey = Image.new("RGB", picture.size, "#999")
        picture = Image.composite(picture, grey, Image.fromarray(one.mask.astype(np.uint8) * 255))
    return picture.crop(tuple(round(edge) for edge in one.box))  # type: ignore[arg-type]
