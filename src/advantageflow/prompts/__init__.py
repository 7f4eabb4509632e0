"""Prompt sets, and which prompts an iteration uses."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advantageflow.config import EvaluationSettings, PromptSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.prompts.files import FORMATS, read_rows
from advantageflow.prompts.trees import plain
from advantageflow.seeding import Stream, address_seed

MAX_CHARACTERS = 2000
FIRST_CHARACTERS = 80  # of a prompt that is shown
LISTED = 5  # prompts that a reward cannot use
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 500  # where nothing is said; an evaluation draws 480 images
SUFFIXES = ", ".join(suffix for suffix in FORMATS if suffix)
SETS = "scenes:train, words:train, geneval:COUNT, ocr:COUNT, hub:OWNER/NAME"


@lru_cache(maxsize=64)  # a prompt after the other is drawn from one order, and a set may have a million
def _order(size: int, *address: int) -> NDArray[np.int64]:
    """In which a round draws the prompts of a task."""
    return np.random.default_rng(address_seed(Stream.PROMPTS, *address)).permutation(size)


@dataclass(frozen=True)
class PromptSet:
    """Prompts and what belongs to each; what is left out is filled with defaults.

    Args:
        tasks: that the prompts belong to.
        origins: where each comes from, for messages.
        metadata: each prompt's other columns, as JSON holds them.
        source: where the set comes from.
        notes: what a user should know of how it was read.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    origins: tuple[str, ...] = ()
    metadata: tuple[dict[str, Any], ...] = ()
    source: str = "memory"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.origins:
            object.__setattr__(self, "origins", tuple(f"prompt {i}" for i in range(1, len(self.texts) + 1)))
        if not self.metadata:
            object.__setattr__(self, "metadata", tuple({} for _ in self.texts))

    def describe(self) -> str:
        """How many prompts from where, what to know of them, and the first two."""
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        first = " and ".join(shown(text, FIRST_CHARACTERS) for text in self.texts[:2])
        return f"{len(self.texts)} from {self.source}{notes}, the first: {first}"

    @cached_property
    def by_text(self) -> dict[str, dict[str, Any]]:
        """Each prompt's metadata."""
        return dict(zip(self.texts, self.metadata, strict=True))

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
            chosen.append(indices[_order(len(indices), *address, which, epoch)[place]])
        return chosen

    def split(self, share: float, seed: int) -> tuple[PromptSet, PromptSet]:
        """The set without, and only with, a random share of its prompts."""
        held_out = set(np.random.default_rng([seed, 7]).permutation(len(self.texts))[: round(share * len(self.texts))])
        kept = [i for i in range(len(self.texts)) if i not in held_out]
        return (
            replace(self._only(kept), source=f"{self.source} without its held-out share"),
            replace(self._only(sorted(held_out)), source=f"the held-out share of {self.source}", notes=()),
        )

    def _only(self, indices: list[int]) -> PromptSet:
        parts = {name: getattr(self, name) for name in ("texts", "tasks", "origins", "metadata")}
        chosen: dict[str, Any] = {name: tuple(part[i] for i in indices) for name, part in parts.items()}
        return replace(self, **chosen)

    def check_for(self, name: str, reward: object) -> None:
        """Check that a reward can score every prompt, where it has a method `check_prompt`.

        Raises:
            ConfigError: see `check`.
        """
        accepts = getattr(reward, "check_prompt", None)
        if accepts:
            self.check(accepts, f"the reward {shown(name)}")

    def check(self, accepts: Callable[[str], object], needs: str) -> None:
        """Check that every prompt is one that a reward can score.

        Raises:
            ConfigError: `accepts` raised; the message says where the first such prompt comes from and why, lists at
                most five, and counts them.
        """
        refused: list[tuple[str, str, str]] = []
        for text, origin in zip(self.texts, self.origins, strict=True):
            try:
                accepts(text)
            except Exception as error:  # a user's function may raise anything
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                refused.append((text, origin, f"{kind}{error}"))
        if refused:
            _, origin, reason = refused[0]
            others = ", ".join(
                shown(text, FIRST_CHARACTERS) + f" ({where})" * (where != origin)
                for text, where, _ in refused[1:LISTED]
            )
            more = f"; it cannot use {len(refused)} of {len(self.texts)} prompts, such as {others}" if others else ""
            raise ConfigError(f"{origin}: {needs} cannot use this prompt: {' '.join(reason.split())}{more}")


def _key(text: str) -> str:
    """Equal for prompts that differ in capitals, spaces or encoding alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def describe_sets(train: PromptSet, held_out: PromptSet) -> list[str]:
    """A line on each, for the terminal."""
    return [f"training prompts: {train.describe()}", f"held-out prompts: {held_out.describe()}"]


class Record(NamedTuple):
    """One prompt as it was read."""

    text: str
    task: str
    origin: str
    metadata: dict[str, Any]
    left_out: tuple[str, ...] = ()  # columns that hold no plain data


def load_prompts(source: str, column: str = "prompt", task_column: str = "tag") -> PromptSet:
    """Load prompts; of equal ones only the first is kept.

    Args:
        source: one of
            scenes:train, scenes:held_out: of the drawn world;
            words:train, words:held_out: the word "CAT", and others;
            geneval:COUNT or geneval:COUNT:SEED: generated in GenEval's six tasks;
            ocr:COUNT or ocr:COUNT:SEED: generated, with words in quotation marks;
            hub:OWNER/NAME or hub:OWNER/NAME:SPLIT: a dataset of the hub;
            a file: .txt (one prompt a line), .json, .jsonl (such as GenEval's metadata), .yaml, .csv, .tsv or .parquet.
        column: that holds the prompt, in files with columns; all others are kept as metadata.
        task_column: that holds its task, if there is one.

    Raises:
        ConfigError: there is no such set, file or column; it is not what its name says; it holds no prompt; or a prompt
            is empty, too long, or no text. The message gives the line.
    """
    kind, _, rest = source.partition(":")
    if kind in GENERATED and rest:
        records = GENERATED[kind](source, rest)
    elif kind == "hub" and rest:
        records = _from_hub(source, rest, column, task_column)
    else:
        records = _from_file(source, column, task_column)
    unique: dict[str, Record] = {}
    count, left_out = 0, set()
    for record in records:
        text = record.text.strip()
        _check_text(text, record.origin)
        unique.setdefault(text, record._replace(text=text))
        count += 1
        left_out |= set(record.left_out)
    if not unique:
        raise ConfigError(f"{shown(source)} holds no prompt; write one a line")
    texts, tasks, origins, metadata, _ = zip(*unique.values(), strict=True)
    notes = [f"{count - len(unique)} repeated ones left out"] if count > len(unique) and kind not in GENERATED else []
    notes += [f"columns without plain data left out: {', '.join(sorted(left_out))}"] if left_out else []
    return PromptSet(texts, tasks, origins, metadata, source, tuple(notes))


def _check_text(text: str, origin: str) -> None:
    if not text or all(unicodedata.category(letter) in ("Cf", "Mn", "Zs", "Cc") for letter in text[:MAX_CHARACTERS]):
        raise ConfigError(f"{origin}: the prompt is empty")
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{origin}: the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    if bad := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffd-\uffff]", text):
        raise ConfigError(
            f"{origin}: the prompt {shown(text)} holds U+{ord(bad[0]):04X}, which is no letter; remove it"
        )


def load_prompt_sets(settings: PromptSettings, seed: int = 0) -> tuple[PromptSet, PromptSet]:
    """The training and held-out prompts of a recipe.

    Raises:
        ConfigError: see `load_prompts`; none are named; a split leaves one side empty; or every held-out prompt is
            trained on, too.
    """
    if settings.train is None:
        raise ConfigError(
            "prompts.train is not set, and only the built-in models bring prompts of their own; name yours: "
            f"prompts.train=FILE ({SUFFIXES}), or {SETS}"
        )
    train = load_prompts(settings.train, settings.column, settings.task_column)
    if isinstance(settings.held_out, str):
        held_out = load_prompts(settings.held_out, settings.column, settings.task_column)
        return train, _apart(train, held_out)
    count = len(train.texts)
    share = settings.held_out or min(max(1, round(HELD_OUT_SHARE * count)), MOST_HELD_OUT) / count
    parts = train.split(share, seed)
    if not all(part.texts for part in parts):
        said = f"prompts.held_out={settings.held_out}" if settings.held_out else "a held-out share"
        raise ConfigError(
            f"{said} of {count} prompts leaves one side empty; name held-out prompts: prompts.held_out=FILE"
        )
    return parts


def _apart(train: PromptSet, held_out: PromptSet) -> PromptSet:
    """The held-out prompts, and a note of how many of them are trained on."""
    trained = {_key(text) for text in train.texts}
    common = sum(_key(text) in trained for text in held_out.texts)
    if common == len(held_out.texts):
        raise ConfigError(
            f"all {common} held-out prompts ({shown(held_out.source)}) are among the training prompts "
            f"({shown(train.source)}); give prompts.held_out others, or a share of the training prompts, such as 0.1"
        )
    said = f"{common} of them are trained on, too"
    return replace(held_out, notes=(*held_out.notes, said)) if common else held_out


def shown_prompts(settings: EvaluationSettings, held_out: PromptSet) -> PromptSet:
    """The prompts of which a run keeps pictures: those that are held out, or the recipe's own.

    Each of its own counts as a task, so that `PromptSet.draw` gives them once each in their order.

    Raises:
        ConfigError: one is empty, too long, or no text.
    """
    if isinstance(settings.prompts_shown, int):
        return held_out
    texts = tuple(text.strip() for text in settings.prompts_shown)
    names = [f"prompt {number}" for number in range(1, len(texts) + 1)]
    origins = tuple(f"evaluation.prompts_shown, {name}" for name in names)
    for text, origin in zip(texts, origins, strict=True):
        _check_text(text, origin)
    return PromptSet(texts, tuple(names), origins, source="evaluation.prompts_shown")


def _scenes(source: str, split: str) -> Iterator[Record]:
    from advantageflow.worlds.scenes.prompts import split_prompts

    if split not in ("train", "held_out"):
        raise ConfigError(f"unknown prompt set {shown(source)}; built in are scenes:train and scenes:held_out")
    for prompts in split_prompts(split).values():
        for prompt in prompts:
            yield Record(prompt.text, prompt.task, source, {})


def _words(source: str, split: str) -> Iterator[Record]:
    from advantageflow.worlds.words.world import split_prompts

    if split not in ("train", "held_out"):
        raise ConfigError(f"unknown prompt set {shown(source)}; built in are words:train and words:held_out")
    for prompt in split_prompts(split):
        yield Record(prompt.text, prompt.task, source, {})


def _geneval(source: str, rest: str) -> Iterator[Record]:
    from advantageflow.prompts.geneval import generate_prompts

    for prompt in generate_prompts(*_count_and_seed(source, rest)):
        yield Record(prompt.text, prompt.tag, source, {})


def _ocr(source: str, rest: str) -> Iterator[Record]:
    from advantageflow.prompts.ocr import generate_prompts

    for text in generate_prompts(*_count_and_seed(source, rest)):
        yield Record(text, "ocr", source, {})


GENERATED = {"scenes": _scenes, "words": _words, "geneval": _geneval, "ocr": _ocr}


def _count_and_seed(source: str, rest: str) -> tuple[int, int]:
    match = re.fullmatch(r"(0*[1-9][0-9]{0,5})(?::([0-9]{1,18})?)?", rest)
    if not match:
        raise ConfigError(
            f"cannot read {shown(source)}; write how many prompts, at most 999999, and perhaps a seed: geneval:5000:1"
        )
    return int(match[1]), int(match[2] or 0)


def _from_hub(source: str, rest: str, column: str, task_column: str) -> Iterator[Record]:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError('hub prompts need datasets; install with: pip install "advantageflow[data]"') from error
    name, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # of its own many kinds, and of the network's
        raise ConfigError(f"cannot load the prompts {shown(source)}: {' '.join(str(error).split())[:300]}") from error
    media = [key for key, feature in (getattr(rows, "features", None) or {}).items() if hasattr(feature, "decode")]
    if media:  # pictures and sounds would be decoded
        rows = rows.remove_columns(media)
    for number, row in enumerate(rows, 1):
        record = _record(row, f"{source} row {number}", column, task_column)
        yield record._replace(left_out=(*record.left_out, *media))


def _from_file(source: str, column: str, task_column: str) -> Iterator[Record]:
    path = Path(os.path.expanduser(source))
    if not os.path.isfile(path):
        what = "is no file" if os.path.exists(path) else "does not exist"
        raise ConfigError(f"prompt file {shown(source)} {what}; give a file ({SUFFIXES}), or one of {SETS}")
    for origin, row in read_rows(path, column):
        yield _record(row, origin, column, task_column)


def _record(row: object, origin: str, column: str, task_column: str) -> Record:
    if isinstance(row, str):
        return Record(row, "all", origin, {})
    if not isinstance(row, dict):
        raise ConfigError(
            f"{origin} is {shown(row)}; a prompt is a text (in quotation marks), or in the column {shown(column)}"
        )
    if not isinstance(row.get(column), str):
        has = shown(", ".join(map(str, row)))[1:-1]
        what = f"{shown(row[column])}, no text," if column in row else "no text"
        raise ConfigError(f"{origin} has {what} in the column {shown(column)} (it has {has}); set prompts.column")
    metadata, left_out = {}, []
    for name, value in row.items():
        try:
            if name != column:
                metadata[str(name)] = plain(value)
        except TypeError:
            left_out.append(str(name))
        except UnicodeEncodeError as error:
            raise ConfigError(f"{origin} has text in the column {shown(name)} that is none: {error.reason}") from error
    task = metadata.get(task_column)
    return Record(row[column], "all" if task in (None, "") else str(task), origin, metadata, tuple(left_out))
