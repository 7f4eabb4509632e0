"""The drawn world: its grammar, its renderer, and the verifier that is to judge both."""

import numpy as np
import pytest

from advantageflow.worlds.scenes.prompts import TASKS, parse_prompt, sample_scene, split_prompts, task_prompts
from advantageflow.worlds.scenes.verifier import Detection, detect, judge, verify
from advantageflow.worlds.scenes.world import COLORS, RELATIONS, SHAPES, SceneObject, render


def draw(count, seed):
    """Prompts of all tasks in turn, their scenes, and the pictures."""
    rng = np.random.default_rng(seed)
    prompts = []
    for i in range(count):
        candidates = task_prompts(TASKS[i % len(TASKS)])
        prompts.append(candidates[rng.integers(len(candidates))])
    scenes = [sample_scene(prompt, rng) for prompt in prompts]
    return prompts, scenes, np.stack([render(scene) for scene in scenes])


def test_the_world_is_as_large_as_promised():
    assert len(SHAPES) >= 6
    assert len(COLORS) >= 7
    assert set(RELATIONS) == {"left of", "right of", "above", "below"}
    assert {item.count for prompt in task_prompts("counting") for item in prompt.wanted} == {2, 3, 4}


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("a ring", "single"),
        ("a circle and a square", "two"),
        ("three crosses", "counting"),
        ("an orange diamond", "colors"),
        ("a cross left of a triangle", "position"),
        ("a red circle and a blue square", "binding"),
    ],
)
def test_the_grammar_has_genevals_six_tasks(text, task):
    assert parse_prompt(text).task == task
    assert parse_prompt(f"  {text.upper()} ").text == text


def test_every_prompt_reads_back_as_itself():
    for task in TASKS:
        for prompt in task_prompts(task):
            assert parse_prompt(prompt.text) == prompt


def test_splits_are_disjoint_deterministic_and_complete():
    train, held_out = split_prompts("train"), split_prompts("held_out")
    split_prompts.cache_clear()
    assert split_prompts("train") == train
    for task in TASKS:
        assert not set(train[task]) & set(held_out[task])
        assert set(train[task]) | set(held_out[task]) == set(task_prompts(task))
        assert held_out[task]
    assert split_prompts("train", seed=1) != train


def test_no_held_out_prompt_is_a_reworded_training_prompt():
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for task in ("two", "position", "binding"):
        train = set(split_prompts("train")[task])
        for prompt in split_prompts("held_out")[task]:
            turned = type(prompt)(task, prompt.wanted[::-1], prompt.relation and opposite[prompt.relation])
            assert turned not in train


def test_a_prompt_outside_the_grammar_is_named():
    with pytest.raises(ValueError, match=r"cannot read the prompt 'a pink cat'.*circle.*purple"):
        parse_prompt("a pink cat")


def test_scenes_fulfil_their_prompts():
    prompts, _, images = draw(1200, seed=0)
    verdicts = verify(images, [prompt.text for prompt in prompts])
    assert np.mean([verdict.strict for verdict in verdicts]) >= 0.995
    assert np.mean([verdict.graded for verdict in verdicts]) >= 0.998


def test_scenes_of_other_prompts_do_not():
    """But for those that happen to fulfil it, as a red circle fulfils "a circle": the scene's own objects tell."""
    prompts, scenes, images = draw(1200, seed=1)
    order = np.random.default_rng(2).permutation(len(prompts))
    wrong = []
    for mine, other in enumerate(order):
        objects = [
            Detection(o.shape, o.color, o.x, o.y, round(2 * o.radius), round(2 * o.radius)) for o in scenes[other]
        ]
        if judge(objects, prompts[mine]).strict == 0:
            wrong.append(judge(detect(images[other]), prompts[mine]).strict)
    assert len(wrong) > 1000
    assert np.mean(wrong) <= 0.005


def test_the_verifier_tolerates_blur_and_noise():
    from scipy.ndimage import gaussian_filter

    prompts, _, images = draw(300, seed=3)
    blurred = gaussian_filter(images.astype(float), (0, 0.8, 0.8, 0))
    noisy = blurred + np.random.default_rng(0).normal(0, 6, blurred.shape)
    degraded = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    verdicts = verify(degraded, [prompt.text for prompt in prompts])
    assert np.mean([verdict.strict for verdict in verdicts]) >= 0.99


def scene(*objects):
    return render(tuple(SceneObject(*item) for item in objects))


RED_CIRCLE, BLUE_SQUARE = ("circle", "red", 18, 32, 9), ("square", "blue", 46, 32, 9)


@pytest.mark.parametrize(
    ("objects", "text", "strict", "graded"),
    [
        ([RED_CIRCLE, BLUE_SQUARE], "a red circle and a blue square", 1, 1),
        ([RED_CIRCLE, BLUE_SQUARE], "a blue square and a red circle", 1, 1),
        ([RED_CIRCLE, BLUE_SQUARE], "a blue circle and a red square", 0, 0.5),
        ([RED_CIRCLE, BLUE_SQUARE], "a red circle and a blue ring", 0, 0.75),
        ([RED_CIRCLE], "a red circle and a blue square", 0, 0.5),
        ([RED_CIRCLE, BLUE_SQUARE], "a red circle", 0, 0.5),
        ([RED_CIRCLE], "a green circle", 0, 0.5),
        ([RED_CIRCLE], "a circle", 1, 1),
        ([], "a circle", 0, 0),
        ([RED_CIRCLE, BLUE_SQUARE], "a circle left of a square", 1, 1),
        ([RED_CIRCLE, BLUE_SQUARE], "a circle above a square", 0, 0.5),
        ([RED_CIRCLE, BLUE_SQUARE], "a square right of a circle", 1, 1),
        ([RED_CIRCLE, ("circle", "red", 46, 32, 9)], "three circles", 0, 2 / 3),
        ([RED_CIRCLE, ("circle", "red", 46, 32, 9)], "two circles", 1, 1),
    ],
)
def test_scores_of_known_scenes(objects, text, strict, graded):
    (verdict,) = verify(scene(*objects)[None], [text])
    assert verdict.strict == strict
    assert verdict.graded == pytest.approx(graded)


def test_drawing_less_never_pays():
    """An object with one right attribute is worth more than no object."""
    both = verify(scene(RED_CIRCLE, ("square", "green", 46, 32, 9))[None], ["a red circle and a blue square"])[0]
    one = verify(scene(RED_CIRCLE)[None], ["a red circle and a blue square"])[0]
    assert both.graded > one.graded


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match="64, 64"):
        verify(np.zeros((1, 32, 32, 3), np.uint8), ["a circle"])
    with pytest.raises(ValueError, match="1 images but 2 prompts"):
        verify(np.zeros((1, 64, 64, 3), np.uint8), ["a circle", "a ring"])
