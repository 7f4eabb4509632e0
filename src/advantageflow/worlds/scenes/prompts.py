"""The prompt grammar of the drawn world: GenEval's six tasks, their text, and scenes that fulfil them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from advantageflow.errors import shown
from advantageflow.worlds.scenes.world import COLORS, IMAGE_SIZE, MAX_COUNT, RELATIONS, SHAPES, Scene, SceneObject

TASKS = ("single", "two", "counting", "colors", "position", "binding")
NUMBERS = {"two": 2, "three": 3, "four": 4}
# Every fourth combination of a task is held out: reinforcement learning never sees it.
HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class Wanted:
    """`count` objects of one shape; `color` is None where the prompt leaves it open."""

    shape: str
    color: str | None = None
    count: int = 1


@dataclass(frozen=True)
class ScenePrompt:
    """What a prompt asks for. With a `relation`, the first wanted object lies so from the second."""

    task: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        phrases = []
        for item in self.wanted:
            if item.count > 1:
                number = next(word for word, value in NUMBERS.items() if value == item.count)
                phrases.append(f"{number} {item.shape}s" if item.shape != "cross" else f"{number} crosses")
            else:
                adjective = f"{item.color} {item.shape}" if item.color else item.shape
                phrases.append(f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective}")
        return f" {self.relation or 'and'} ".join(phrases)


def task_prompts(task: str) -> list[ScenePrompt]:
    """All prompts of one task, in a fixed order."""
    pairs = list(permutations(SHAPES, 2))
    if task == "single":
        return [ScenePrompt(task, (Wanted(shape),)) for shape in SHAPES]
    if task == "two":
        return [ScenePrompt(task, (Wanted(first), Wanted(second))) for first, second in pairs]
    if task == "counting":
        return [ScenePrompt(task, (Wanted(shape, count=count),)) for shape in SHAPES for count in NUMBERS.values()]
    if task == "colors":
        return [ScenePrompt(task, (Wanted(shape, color),)) for shape in SHAPES for color in COLORS]
    if task == "position":
        return [
            ScenePrompt(task, (Wanted(first), Wanted(second)), relation)
            for first, second in pairs
            for relation in RELATIONS
        ]
    if task == "binding":
        return [
            ScenePrompt(task, (Wanted(first, one), Wanted(second, other)))
            for first, second in pairs
            for one, other in permutations(COLORS, 2)
        ]
    raise ValueError(f"unknown task {shown(task)}; the grammar has {', '.join(TASKS)}")


@lru_cache
def split_prompts(split: str, seed: int = 0) -> dict[str, tuple[ScenePrompt, ...]]:
    """The prompts of every task in one split, shuffled by `seed`; "train" and "held_out" share no combination.

    Prompts that mean the same ("a ring left of a cross", "a cross right of a ring") are held out together, so that no
    held-out prompt is a re-worded training prompt.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"unknown split {shown(split)}; use 'train' or 'held_out'")
    chosen: dict[str, tuple[ScenePrompt, ...]] = {}
    for number, task in enumerate(TASKS):
        by_combination: dict[object, list[ScenePrompt]] = {}
        for prompt in task_prompts(task):
            by_combination.setdefault(_meaning(prompt), []).append(prompt)
        groups = list(by_combination.values())
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(groups))
        kept = [groups[i] for rank, i in enumerate(order) if (rank % HELD_OUT_EVERY == 0) == (split == "held_out")]
        prompts = [prompt for group in kept for prompt in group]
        chosen[task] = tuple(prompts[i] for i in rng.permutation(len(prompts)))
    return chosen


def _meaning(prompt: ScenePrompt) -> object:
    """Equal for two prompts of one task that ask for the same scenes."""
    if prompt.relation is None:
        return frozenset(prompt.wanted)
    dx, dy = RELATIONS[prompt.relation]
    first, second = prompt.wanted if dx + dy < 0 else prompt.wanted[::-1]
    return first, second, dx != 0


def parse_prompt(text: str) -> ScenePrompt:
    """Read a prompt of the grammar back.

    Raises:
        ValueError: the text is not in the grammar; the message shows what is.
    """
    found = _all_prompts().get(re.sub(r"\s+", " ", text.strip().lower()))
    if found is None:
        raise ValueError(
            f"the scenes verifier cannot read the prompt {shown(text)}; it reads prompts such as "
            "'a red circle and a blue square', 'three rings', 'a cross left of a diamond' "
            f"(shapes: {', '.join(SHAPES)}; colours: {', '.join(COLORS)}; counts up to {MAX_COUNT})"
        )
    return found


@lru_cache
def _all_prompts() -> dict[str, ScenePrompt]:
    return {prompt.text: prompt for task in TASKS for prompt in task_prompts(task)}


def sample_scene(prompt: ScenePrompt, rng: np.random.Generator) -> Scene:
    """Draw a random scene that fulfils the prompt and shows nothing else, each object in a quarter of its own."""
    looks = []
    for item in prompt.wanted:
        color = item.color or str(rng.choice(list(COLORS)))
        looks += [(item.shape, color)] * item.count
    radii = rng.uniform(8.5, 11.5, len(looks))
    play = IMAGE_SIZE / 4 - 1.5 - radii  # so that neighbours stay 3 pixels apart
    centers = IMAGE_SIZE / 4 * (1 + 2 * _quarters(prompt, rng)) + play[:, None] * rng.uniform(-1, 1, (len(looks), 2))
    return tuple(
        SceneObject(shape, color, float(x), float(y), float(radius))
        for (shape, color), (x, y), radius in zip(looks, centers, radii, strict=True)
    )


def _quarters(prompt: ScenePrompt, rng: np.random.Generator) -> np.ndarray:
    """Distinct quarters of the image, one per object, as (column, row) in {0, 1}²; a relation's lie side by side."""
    if prompt.relation is None:
        return np.array([(0, 0), (1, 0), (0, 1), (1, 1)])[rng.permutation(4)[: sum(w.count for w in prompt.wanted)]]
    direction = np.array(RELATIONS[prompt.relation])
    line = np.full(2, rng.integers(2))
    return np.array([np.where(direction, (1 + sign * direction) // 2, line) for sign in (1, -1)])
