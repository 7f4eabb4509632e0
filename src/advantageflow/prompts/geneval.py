"""GenEval's prompts (Ghosh et al., 2023): six tasks over the 80 object names of COCO, as text and as what is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from advantageflow.errors import shown

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
# COCO's 80 categories in its own order, under GenEval's names
OBJECTS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Clause:
    """One kind of object that the image must show.

    position: (relation, index of the clause it relates to).
    """

    name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class GenEvalPrompt:
    """A prompt, its task, the clauses it asks for, and (name, count) pairs of what would be too many."""

    text: str
    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[tuple[str, int], ...] = ()


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """GenEval's own plurals, which know no exceptions: "persons", "skises"."""
    return f"{name}es" if name.endswith("s") else f"{name}s"


def build(tag: str, *clauses: Clause) -> GenEvalPrompt:
    """The prompt of a task for its clauses, in the order in which the text names them."""
    first, second = clauses[0], clauses[-1]
    if tag == "counting":
        number = next(word for word, count in NUMBERS.items() if count == first.count)
        text, exclude = f"{number} {plural(first.name)}", ((first.name, first.count + 1),)
        return GenEvalPrompt(f"a photo of {text}", tag, clauses, exclude)
    if tag == "position":
        assert first.position is not None
        text = f"{with_article(first.name)} {first.position[0]} {with_article(second.name)}"
        return GenEvalPrompt(f"a photo of {text}", tag, (second, first))  # a relation points to an earlier clause
    described = [with_article(f"{clause.color} {clause.name}" if clause.color else clause.name) for clause in clauses]
    return GenEvalPrompt(f"a photo of {' and '.join(described)}", tag, clauses)


def sample_prompt(tag: str, rng: np.random.Generator) -> GenEvalPrompt:
    """A random prompt of a task."""

    def pick(values: tuple[str, ...], count: int = 1) -> list[str]:
        return [values[i] for i in rng.choice(len(values), size=count, replace=False)]

    coloured = OBJECTS[1:]  # no coloured persons
    if tag == "single_object":
        return build(tag, Clause(pick(OBJECTS)[0]))
    if tag == "two_object":
        return build(tag, *(Clause(name) for name in pick(OBJECTS, 2)))
    if tag == "counting":
        return build(tag, Clause(pick(OBJECTS)[0], count=int(rng.integers(2, 5))))
    if tag == "colors":
        return build(tag, Clause(pick(coloured)[0], color=pick(COLORS)[0]))
    if tag == "position":
        one, other = pick(OBJECTS, 2)
        return build(tag, Clause(one, position=(pick(RELATIONS)[0], 0)), Clause(other))
    if tag == "color_attr":
        names, colors = pick(coloured, 2), pick(COLORS, 2)
        return build(tag, *(Clause(name, color=color) for name, color in zip(names, colors, strict=True)))
    raise ValueError(f"unknown GenEval task {shown(tag)}; allowed: {', '.join(TASKS)}")


def generate_prompts(count: int, seed: int) -> list[GenEvalPrompt]:
    """Distinct prompts, tasks taking turns; of tasks with few prompts there are fewer."""
    found: dict[str, GenEvalPrompt] = {}
    rng = np.random.default_rng([seed, 5])
    tries = 0
    while len(found) < count and tries < 50 * count:
        prompt = sample_prompt(TASKS[tries % len(TASKS)], rng)
        found.setdefault(prompt.text, prompt)
        tries += 1
    return list(found.values())


_NAME = "|".join(sorted(map(re.escape, OBJECTS), key=len, reverse=True))
_COLOR = "|".join(COLORS)
_COUNTED = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(sorted(map(plural, OBJECTS), key=len, reverse=True))})")
_PHOTO = "a photo of "
_ITEM = rf"an? (?:({_COLOR}) )?({_NAME})"
_RELATED = re.compile(rf"an? ({_NAME}) ({'|'.join(RELATIONS)}) an? ({_NAME})")
_ONE, _TWO = re.compile(_ITEM), re.compile(f"{_ITEM} and {_ITEM}")


def parse_prompt(text: str) -> GenEvalPrompt:
    """What a GenEval prompt asks for.

    Raises:
        ValueError: it is not one of GenEval's sentences.
    """
    rest = text.removeprefix(_PHOTO) if text.startswith(_PHOTO) else ""
    if match := _COUNTED.fullmatch(rest):
        name = next(name for name in OBJECTS if plural(name) == match[2])
        return build("counting", Clause(name, count=NUMBERS[match[1]]))
    if match := _RELATED.fullmatch(rest):
        return build("position", Clause(match[1], position=(match[2], 0)), Clause(match[3]))
    if match := _TWO.fullmatch(rest):
        tag = "color_attr" if match[1] or match[3] else "two_object"
        return build(tag, Clause(match[2], color=match[1]), Clause(match[4], color=match[3]))
    if match := _ONE.fullmatch(rest):
        return build("colors" if match[1] else "single_object", Clause(match[2], color=match[1]))
    raise ValueError(
        f"{shown(text)} is not a GenEval prompt; they read like 'a photo of a red cup and a blue dog', "
        "with COCO's names"
    )


def from_metadata(record: dict[str, object]) -> GenEvalPrompt:
    """A line of GenEval's metadata: tag, prompt, include (class, count, perhaps color and position), exclude."""
    include = []
    for clause in record["include"]:  # type: ignore[attr-defined]
        position = clause.get("position")
        include.append(
            Clause(
                clause["class"],
                clause["count"],
                clause.get("color"),
                None if position is None else (position[0], position[1]),
            )
        )
    exclude = tuple((clause["class"], clause["count"]) for clause in record.get("exclude") or ())  # type: ignore[attr-defined]
    return GenEvalPrompt(str(record["prompt"]), str(record["tag"]), tuple(include), exclude)
