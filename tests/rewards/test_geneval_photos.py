"""GenEval's rules on photographs, with a detector that a package ships; skipped without (CONTRIBUTING.md)."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advantageflow.prompts.geneval import OBJECTS, parse_prompt
from advantageflow.rewards.geneval import Detection, correct, graded, strict

DETECTOR, PHOTOS = (os.environ.get(name, "") for name in ("ADVANTAGEFLOW_TEST_DETECTOR", "ADVANTAGEFLOW_TEST_PHOTOS"))
pytestmark = pytest.mark.skipif(not (DETECTOR and PHOTOS), reason="no packaged COCO detector and photographs")
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # numbers that COCO does not use
NUMBERS = dict(zip((i for i in range(1, 91) if i not in GAPS), OBJECTS, strict=True))


@pytest.fixture(scope="module")
def detect():
    cv2 = pytest.importorskip("cv2")
    folder = Path(DETECTOR)
    network = cv2.dnn.readNetFromTensorflow(
        str(folder / "frozen_inference_graph.pb"), str(folder / "ssd_mobilenet_v2_coco_2018_03_29.pbtxt")
    )

    def find(picture):
        network.setInput(cv2.dnn.blobFromImage(np.asarray(picture)[..., ::-1], size=(300, 300), swapRB=True))
        found = {}
        for _, number, score, *box in network.forward()[0, 0]:
            edges = tuple(np.array(box) * (picture.size + picture.size))
            found.setdefault(NUMBERS[int(number)], []).append(Detection(edges, float(score)))
        return found

    return find


def photo(name, size=300):
    return Image.open(Path(PHOTOS) / name).convert("RGB").resize((size, size))


def beside(*pictures):
    page = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for i, picture in enumerate(pictures):
        page.paste(picture, (i * picture.width, 0))
    return page


def judge(text, detections):
    return [rule(detections, parse_prompt(text), lambda group, name: []) for rule in (correct, strict, graded)]


def test_photographs_are_what_they_show(detect):
    for name, thing in (("chelsea.png", "cat"), ("motorcycle_left.png", "motorcycle"), ("astronaut.png", "person")):
        assert judge(f"a photo of a {thing}", detect(photo(name)))[0] == 1, name
        assert judge("a photo of a zebra", detect(photo(name))) == [0, 0, 0]


def test_positions_in_a_composite(detect):
    found = detect(beside(photo("chelsea.png"), photo("motorcycle_left.png")))
    assert judge("a photo of a cat left of a motorcycle", found)[0] == 1
    assert judge("a photo of a motorcycle left of a cat", found)[0] == 0
    assert judge("a photo of a cat and a motorcycle", found)[0] == 1
