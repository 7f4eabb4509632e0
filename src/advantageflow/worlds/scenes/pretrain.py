"""What the built-in model of scenes is pre-trained on: random scenes, with captions that may be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from advantageflow.worlds.pretraining import World
from advantageflow.worlds.scenes.model import build_pipeline
from advantageflow.worlds.scenes.prompts import NUMBERS, TASKS, ScenePrompt, Wanted, sample_scene, task_prompts
from advantageflow.worlds.scenes.world import COLORS, RELATIONS, SHAPES, render


def sample_prompt(rng: np.random.Generator) -> ScenePrompt:
    """A prompt of a uniformly drawn task."""
    prompts = task_prompts(TASKS[rng.integers(len(TASKS))])
    return prompts[rng.integers(len(prompts))]


def corrupt(prompt: ScenePrompt, rng: np.random.Generator) -> ScenePrompt:
    """Change one attribute that the prompt names: a shape, a colour, the count, the relation, or swap the colours."""
    first = prompt.wanted[0]
    used = {item.shape for item in prompt.wanted}
    changes = ["shape"]
    if prompt.task == "counting":
        changes += ["count", "count"]
    if prompt.task in ("colors", "binding"):
        changes += ["color", "color"]
    if prompt.task == "binding":
        changes.append("swap")
    if prompt.relation:
        changes += ["relation", "relation"]
    change = changes[rng.integers(len(changes))]
    if change == "relation":
        others = [relation for relation in RELATIONS if relation != prompt.relation]
        return replace(prompt, relation=others[rng.integers(len(others))])
    if change == "count":
        counts = [count for count in NUMBERS.values() if count != first.count]
        return replace(prompt, wanted=(replace(first, count=counts[rng.integers(len(counts))]),))
    if change == "swap":
        one, other = prompt.wanted
        return replace(prompt, wanted=(replace(one, color=other.color), replace(other, color=one.color)))
    index = int(rng.integers(len(prompt.wanted)))
    item = prompt.wanted[index]
    if change == "color":
        taken = {wanted.color for wanted in prompt.wanted}
        colors = [color for color in COLORS if color not in taken]
        changed: Wanted = replace(item, color=colors[rng.integers(len(colors))])
    else:
        shapes = [shape for shape in SHAPES if shape not in used]
        changed = replace(item, shape=shapes[rng.integers(len(shapes))])
    return replace(prompt, wanted=(*prompt.wanted[:index], changed, *prompt.wanted[index + 1 :]))


SCENES = World(
    sample=sample_prompt,
    render=lambda prompt, rng: render(sample_scene(prompt, rng)),
    corrupt=corrupt,
    build_pipeline=build_pipeline,
)
