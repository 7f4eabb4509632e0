"""GenEval's rules on detections made by hand, and the real detector's class on random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from advantageflow.prompts.geneval import OBJECTS, TASKS, Clause, from_metadata, generate_prompts, parse_prompt
from advantageflow.rewards.geneval import (
    ColorClassifier,
    Detection,
    GenEval,
    GenEvalStrict,
    Mask2FormerDetector,
    correct,
    graded,
    relations,
    strict,
)


def at(x, y, score=0.95, size=20):
    return Detection((x - size / 2, y - size / 2, x + size / 2, y + size / 2), score)


def judge(text, detections, colors=()):
    """(accuracy, strict, graded) with the colours named in order."""

    def colors_of(group, name):
        return list(dict(colors).get(name, []))[: len(group)]

    prompt = parse_prompt(text)
    return tuple(rule(detections, prompt, colors_of) for rule in (correct, strict, graded))


def test_single_object():
    assert judge("a photo of a cup", {"cup": [at(50, 50)]}) == (1, 1, 1)
    assert judge("a photo of a cup", {"cup": [at(50, 50, 0.31)]}) == (1, 1, 1)
    assert judge("a photo of a cup", {"cup": [at(50, 50, 0.29)]}) == (0, 0, 0)
    assert judge("a photo of a cup", {"cup": [at(20, 50), at(80, 50)]}) == (1, 0, 0)  # at least one; exactly one
    assert judge("a photo of a cup", {"dog": [at(50, 50)]}) == (0, 0, 0)


def test_two_objects():
    text = "a photo of a cup and a dog"
    assert judge(text, {"cup": [at(20, 50)], "dog": [at(80, 50)]}) == (1, 1, 1)
    assert judge(text, {"cup": [at(20, 50)]}) == (0, 0, 0.5)


def test_counting_needs_confidence_and_has_an_upper_bound():
    text = "a photo of three cups"
    cups = [at(20, 20), at(50, 50), at(80, 80)]
    assert judge(text, {"cup": cups}) == (1, 1, 1)
    assert judge(text, {"cup": cups[:2]}) == (0, 0, pytest.approx(2 / 3))
    assert judge(text, {"cup": [*cups, at(20, 80)]}) == (0, 0, pytest.approx(2 / 3))
    assert judge(text, {"cup": [*cups, at(20, 80, 0.89)]}) == (1, 1, 1)  # below counting's threshold of 0.9
    assert judge(text, {"cup": cups * 3}) == (0, 0, pytest.approx(-1))
    assert judge(text, {"cup": cups * 10})[2] == pytest.approx(1 - 13 / 3)  # 16 detections at most


def test_colors():
    text = "a photo of a red cup"
    assert judge(text, {"cup": [at(50, 50)]}, {"cup": ["red"]}) == (1, 1, 1)
    assert judge(text, {"cup": [at(50, 50)]}, {"cup": ["blue"]}) == (0, 0, 0.5)
    assert judge(text, {}, {"cup": []}) == (0, 0, 0)  # a wrong count has no right colour either


def test_color_binding():
    text, found = "a photo of a red cup and a blue dog", {"cup": [at(20, 50)], "dog": [at(80, 50)]}
    assert judge(text, found, {"cup": ["red"], "dog": ["blue"]}) == (1, 1, 1)
    assert judge(text, found, {"cup": ["blue"], "dog": ["red"]}) == (0, 0, 0.5)


def test_position():
    text = "a photo of a dog left of a cup"
    assert judge(text, {"dog": [at(20, 50)], "cup": [at(80, 50)]}) == (1, 1, 1)
    assert judge(text, {"dog": [at(80, 50)], "cup": [at(20, 50)]}) == (0, 0, pytest.approx(2 / 3))
    assert judge(text, {"dog": [at(20, 50)]}) == (0, 0, pytest.approx((0 + 1 + 0) / 3))


def test_the_official_code_answers_a_wrong_position_with_an_extra_one():
    prompt = parse_prompt("a photo of a dog left of a cup")
    wrong = {"dog": [at(80, 50)], "cup": [at(20, 50)]}
    assert graded(wrong, prompt, lambda *_: [], official_quirk=True) == pytest.approx(3 / 4)


def test_relations_by_direction():
    assert relations(at(20, 50), at(80, 50)) == {"left of"}
    assert relations(at(80, 50), at(20, 50)) == {"right of"}
    assert relations(at(50, 20), at(50, 80)) == {"above"}
    assert relations(at(20, 80), at(80, 20)) == {"left of", "below"}
    assert relations(at(50, 50), at(53, 52)) == set()  # within a tenth of the sizes


def test_prompts_are_read_back_from_their_text():
    prompts = generate_prompts(600, seed=0)
    assert len({prompt.text for prompt in prompts}) == 600
    assert {prompt.tag for prompt in prompts} == set(TASKS)
    for prompt in prompts:
        assert parse_prompt(prompt.text) == prompt
    assert generate_prompts(600, seed=0) == prompts
    assert generate_prompts(600, seed=1) != prompts
    with pytest.raises(ValueError, match="is not a GenEval prompt"):
        parse_prompt("a photo of a unicorn")


def test_official_sentences_and_metadata():
    assert len(OBJECTS) == len(set(OBJECTS)) == 80
    assert parse_prompt("a photo of an orange orange").include == (Clause("orange", color="orange"),)
    record = {
        "tag": "position",
        "include": [{"class": "cow", "count": 1}, {"class": "tv", "count": 1, "position": ["above", 0]}],
        "prompt": "a photo of a tv above a cow",
    }
    assert from_metadata(record) == parse_prompt("a photo of a tv above a cow")
    record = {
        "tag": "counting",
        "include": [{"class": "skis", "count": 2}],
        "exclude": [{"class": "skis", "count": 3}],
        "prompt": "a photo of two skises",
    }
    assert from_metadata(record) == parse_prompt("a photo of two skises")


def test_the_reward_scores_a_batch():
    images = torch.rand(2, 3, 32, 32)
    reward = GenEval(
        detect=lambda pictures: [{"cup": [at(16, 16)]}, {}], classify=lambda picture, group, name: ["red"] * len(group)
    )
    assert reward(images, ["a photo of a red cup", "a photo of a red cup"]) == [1.0, 0.0]
    assert isinstance(GenEvalStrict(reward.detect, reward.classify)(images, ["a photo of a cup"] * 2)[0], float)
    with pytest.raises(ValueError, match="is not a GenEval prompt"):
        reward(images, ["a cup", "a cup"])


def test_objects_are_cut_out_of_their_surroundings():
    class FakeClip:
        image_size = 8

        def embed_images(self, pixels):
            means = pixels.mean((2, 3))
            return torch.nn.functional.normalize(means, dim=-1)

        def embed_texts(self, texts):
            colors = {"red": [1.0, -1, -1], "green": [-1.0, 1, -1], "blue": [-1.0, -1, 1]}
            rows = [next((v for c, v in colors.items() if f" {c}" in text), [0.0, 0, 0]) for text in texts]
            return torch.nn.functional.normalize(torch.tensor(rows) + 1e-6, dim=-1)

    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :, 2] = 255  # all blue, with a red and a green object
    pixels[4:12, 4:12] = (255, 0, 0)
    pixels[20:28, 20:28] = (0, 255, 0)
    mask = np.zeros((32, 32), bool)
    mask[4:12, 4:12] = True
    found = [Detection((4, 4, 12, 12), 1.0, mask), Detection((20, 20, 28, 28), 1.0)]
    assert ColorClassifier(FakeClip())(Image.fromarray(pixels), found, "cup") == ["red", "green"]


def test_the_detector_runs_on_a_random_mask2former():
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessorPil,
        SwinConfig,
    )

    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, dim_feedforward=16, encoder_feedforward_dim=16, num_queries=5,
        num_labels=80,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    model.class_predictor.bias.data[OBJECTS.index("bus")] += 20  # sees buses everywhere
    detector = Mask2FormerDetector(model, Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}))
    found = detector([Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 40, 3), np.uint8))])
    assert list(found[0]) == ["bus"]
    for one in found[0]["bus"]:
        left, top, right, bottom = one.box
        assert 0 <= left < right <= 40
        assert 0 <= top < bottom <= 48
        assert one.mask.shape == (48, 40)
    model.class_predictor.bias.data[OBJECTS.index("bus")] -= 20
    assert detector([Image.new("RGB", (40, 48))]) == [{}]
