"""Prompt sets, and which prompts an iteration uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from advantageflow.config import ConfigError, PromptSettings
from advantageflow.seeding import Stream, address_seed

MAX_CHARACTERS = 2000
OCR_WORDS = (
    "Open", "Fresh", "Bakery", "Coffee", "House", "Blue", "River", "Summer", "Market", "Night", "Train", "Golden",
    "Garden", "Silver", "Star", "Quiet", "Library", "Happy", "Birthday", "Welcome", "Home", "Grand", "Hotel",
    "Ocean", "View", "Street", "Music", "Winter", "Sale", "Green", "Energy", "Space", "Travel", "Deep", "Learning",
)  # fmt: skip
OCR_PLACES = (
    "a sign that says",
    "a shop window with the words",
    "a book cover titled",
    "a poster that reads",
    "a cake with icing that spells",
    "a T-shirt printed with",
    "a neon light that says",
    "a chalkboard with the text",
)


@dataclass(frozen=True)
class PromptSet:
    """Prompts, each with the task it belongs to and, for messages, where it comes from."""

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    origins: tuple[str, ...] = ()

    @cached_property
    def by_task(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, task in enumerate(self.tasks):
            found.setdefault(task, []).append(index)
        return found

    def draw(self, start: int, count: int, *address: int) -> list[int]:
        """Indices of the prompts at positions start ... start + count - 1 of an endless, task-balanced sequence.

        Tasks take turns. Within a task every prompt comes once before any comes twice, in an order that depends on
        the address (such as the seed) and the round alone.
        """
        tasks = list(self.by_task.values())
        chosen = []
        for position in range(start, start + count):
            turn, which = divmod(position, len(tasks))
            indices = tasks[which]
            epoch, place = divmod(turn, len(indices))
            order = np.random.default_rng(address_seed(Stream.PROMPTS, *address, which, epoch)).permutation(
                len(indices)
            )
            chosen.append(indices[order[place]])
        return chosen

    def split(self, share: float, seed: int) -> tuple[PromptSet, PromptSet]:
        """The set without, and only with, a random share of its prompts."""
        held_out = set(np.random.default_rng([seed, 7]).permutation(len(self.texts))[: round(share * len(self.texts))])
        kept = [i for i in range(len(self.texts)) if i not in held_out]
        return self._only(kept), self._only(sorted(held_out))

    def _only(self, indices: Iterable[int]) -> PromptSet:
        indices = list(indices)
        return PromptSet(*(tuple(part[i] for i in indices) for part in (self.texts, self.tasks, self.origins)))

    def check(self, accepts: Callable[[str], object], needs: str) -> None:
        """Check that every prompt is one that a reward can score.

        Raises:
            ConfigError: `accepts` raised ValueError; the message says where the prompt comes from.
        """
        for text, origin in zip(self.texts, self.origins, strict=True):
            try:
                accepts(text)
            except ValueError as error:
                raise ConfigError(f"{origin}: {needs} cannot use this prompt: {error}") from error


Record = tuple[str, str, str]  # text, task, origin


def load_prompts(source: str, column: str = "prompt", task_column: str = "tag") -> PromptSet:
    """Load prompts; of equal ones only the first is kept.

    Args:
        source: one of
            scenes:train, scenes:held_out: of the drawn world;
            words:train, words:held_out: the word "CAT", and others;
            geneval:COUNT or geneval:COUNT:SEED: generated in GenEval's six tasks;
            ocr:COUNT or ocr:COUNT:SEED: generated, with words in quotation marks;
            hub:OWNER/NAME or hub:OWNER/NAME:SPLIT: a dataset of the hub;
            a file: .txt (one prompt a line), .jsonl (such as GenEval's metadata), .csv or .parquet.
        column: that holds the prompt, in all but text files.
        task_column: that holds its task, if there is one.

    Raises:
        ConfigError: there is no such set, file or column; it holds no prompt; or a prompt is empty or too long. The
            message gives the line.
    """
    kind, _, rest = source.partition(":")
    if kind in GENERATED and rest:
        records = GENERATED[kind](source, rest)
    elif kind == "hub" and rest:
        records = _from_hub(source, rest, column, task_column)
    else:
        records = _from_file(source, column, task_column)
    unique: dict[str, Record] = {}
    for text, task, origin in records:
        text = text.strip()
        if not text:
            raise ConfigError(f"{origin}: the prompt is empty")
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"{origin}: the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
        unique.setdefault(text, (text, task, origin))
    if not unique:
        raise ConfigError(f"{source!r} holds no prompt; write one a line")
    return PromptSet(*(tuple(part) for part in zip(*unique.values(), strict=True)))


def load_prompt_sets(settings: PromptSettings, seed: int = 0) -> tuple[PromptSet, PromptSet]:
    """The training and held-out prompts of a recipe.

    Raises:
        ConfigError: see `load_prompts`, or a split leaves one side empty.
    """
    train = load_prompts(settings.train, settings.column, settings.task_column)
    if isinstance(settings.held_out, str):
        return train, load_prompts(settings.held_out, settings.column, settings.task_column)
    parts = train.split(settings.held_out, seed)
    if not all(part.texts for part in parts):
        raise ConfigError(f"prompts.held_out={settings.held_out} of {len(train.texts)} prompts leaves one side empty")
    return parts


def _scenes(source: str, split: str) -> Iterator[Record]:
    from advantageflow.scenes.prompts import split_prompts

    if split not in ("train", "held_out"):
        raise ConfigError(f"unknown prompt set {source!r}; built in are scenes:train and scenes:held_out")
    for prompts in split_prompts(split).values():
        for prompt in prompts:
            yield prompt.text, prompt.task, source


def _words(source: str, split: str) -> Iterator[Record]:
    from advantageflow.words.world import split_prompts

    if split not in ("train", "held_out"):
        raise ConfigError(f"unknown prompt set {source!r}; built in are words:train and words:held_out")
    for prompt in split_prompts(split):
        yield prompt.text, prompt.task, source


def _geneval(source: str, rest: str) -> Iterator[Record]:
    from advantageflow.geneval import generate_prompts

    for prompt in generate_prompts(*_count_and_seed(source, rest)):
        yield prompt.text, prompt.tag, source


def _ocr(source: str, rest: str) -> Iterator[Record]:
    count, seed = _count_and_seed(source, rest)
    rng = np.random.default_rng([seed, 6])
    for _ in range(count):
        words = " ".join(rng.choice(OCR_WORDS, size=rng.integers(1, 4), replace=False))
        yield f'{rng.choice(OCR_PLACES)} "{words}"', "ocr", source


GENERATED = {"scenes": _scenes, "words": _words, "geneval": _geneval, "ocr": _ocr}


def _count_and_seed(source: str, rest: str) -> tuple[int, int]:
    count, _, seed = rest.partition(":")
    if not count.isdigit() or int(count) < 1 or not (seed or "0").isdigit():
        raise ConfigError(f"cannot read {source!r}; write how many prompts, and perhaps a seed, as in geneval:5000:1")
    return int(count), int(seed or 0)


def _from_hub(source: str, rest: str, column: str, task_column: str) -> Iterator[Record]:
    name, _, split = rest.partition(":")
    try:
        rows = _datasets().load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the prompts {source!r}: {' '.join(str(error).split())[:300]}") from error
    yield from _rows(rows, source, column, task_column)


def _from_file(source: str, column: str, task_column: str) -> Iterator[Record]:
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"prompt file {source!r} does not exist; give a .txt, .jsonl, .csv or .parquet file, or one of "
            "scenes:train, words:train, geneval:COUNT, ocr:COUNT, hub:OWNER/NAME"
        )
    if path.suffix in (".csv", ".parquet"):
        rows = _datasets().Dataset.from_csv if path.suffix == ".csv" else _datasets().Dataset.from_parquet
        yield from _rows(rows(str(path)), source, column, task_column)
        return
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        origin = f"{source} line {number}"
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{origin} is not JSON: {error}") from error
            yield _record(row, origin, column, task_column)
        elif line.strip() or len(lines) > 1:
            yield line, "all", origin


def _rows(rows: Iterable[dict[str, object]], source: str, column: str, task_column: str) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        yield _record(row, f"{source} row {number}", column, task_column)


def _record(row: object, origin: str, column: str, task_column: str) -> Record:
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ConfigError(f"{origin} has no text in the column {column!r} (it has {has}); set prompts.column")
    return row[column], str(row.get(task_column, "all")), origin


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            'CSV, Parquet and hub prompts need datasets; install with: pip install "advantageflow[data]"'
        ) from error
    return datasets
