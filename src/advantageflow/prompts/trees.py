"""Rows of JSON and YAML with their lines; numbers that are no numbers and keys that are written twice are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import date
from typing import Any

import yaml

from advantageflow.errors import shown

MAX_YAML = 2**24  # characters; its reader is slow
MAX_DEPTH = 100
NESTED = "is nested too deep"


class RowError(ValueError):
    """A row that cannot be read; its line, and what it is or has."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} {reason}")
        self.line, self.reason = line, reason


def json_lines_rows(text: str) -> Iterator[tuple[int, Any]]:
    """A value a line; blank lines are skipped."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line, **_STRICT)
            except json.JSONDecodeError as error:
                raise RowError(number, f"is not JSON: {error.msg}, in column {error.colno}: {shown(line)}") from None
            except ValueError as error:
                raise RowError(number, f"is not JSON: {error}") from None
            except RecursionError:
                raise RowError(number, NESTED) from None


def json_array_rows(text: str) -> Iterator[tuple[int, Any]]:
    """The entries of an array."""
    decoder, at, line = json.JSONDecoder(**_STRICT), 0, 1

    def skip(at: int) -> int:
        while text[at : at + 1] in (" ", "\n", "\t"):
            at += 1
        return at

    at = skip(at)
    if at == len(text):
        return
    if text[at] != "[":
        raise RowError(1 + text.count("\n", 0, at), "does not begin a JSON array of texts or of objects")
    end = skip(at + 1)
    closed = text[end : end + 1] == "]"
    counted = 0
    while not closed:
        line, counted = line + text.count("\n", counted, end), end
        try:
            value, end = decoder.raw_decode(text, end)
        except json.JSONDecodeError as error:
            raise RowError(error.lineno, f"is not JSON: {error.msg}, in column {error.colno}") from None
        except ValueError as error:
            raise RowError(line, f"is not JSON: {error}") from None
        except RecursionError:
            raise RowError(line, NESTED) from None
        yield line, value
        end = skip(end)
        closed = text[end : end + 1] == "]"
        if not closed and text[end : end + 1] != ",":
            raise RowError(
                1 + text.count("\n", 0, end), f"is not JSON: ',' or ']' is missing before {shown(text[end : end + 40])}"
            )
        end = end if closed else skip(end + 1)
    if (rest := skip(end + 1)) < len(text):
        raise RowError(1 + text.count("\n", 0, rest), f"goes on after the array's end: {shown(text[rest : rest + 40])}")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is written twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is no number of JSON, or too large for one")
    return value


_STRICT: dict[str, Any] = {"object_pairs_hook": _pairs, "parse_float": _number, "parse_constant": _number}


def yaml_rows(text: str) -> Iterator[tuple[int, Any]]:
    """The entries of a list. Aliases are refused, for a few can stand for more than memory holds."""
    if len(text) > MAX_YAML:
        raise RowError(1, f"begins a YAML file of more than {MAX_YAML >> 20} MB, too long to read; write JSON lines")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RowError(_line(event), NESTED)
            if tag := getattr(event, "tag", None):
                raise RowError(_line(event), f"has a tag, {shown(tag)}; tags are not read")
            if isinstance(event, yaml.AliasEvent):
                raise RowError(_line(event), f"has an alias, *{shown(event.anchor)[1:-1]}; write it out")
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RowError(line, f"is not YAML: {_one_line(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        raise RowError(1, f"begins no YAML: {_one_line(error)}") from None
    except RecursionError:
        raise RowError(1, f"begins YAML that {NESTED}") from None
    if node is None:
        return
    if not isinstance(node, yaml.SequenceNode):
        raise RowError(_line(node), "does not begin a YAML list of texts or of mappings ('- a red circle')")
    for entry in node.value:
        yield _line(entry), _yaml_value(entry)


def _yaml_value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_yaml_value(entry) for entry in node.value]
    if isinstance(node, yaml.MappingNode):
        try:
            return _pairs([(_yaml_key(key), _yaml_value(value)) for key, value in node.value])
        except RowError:
            raise
        except ValueError as error:
            raise RowError(_line(node), str(error)) from None
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
        return plain(value)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise RowError(_line(node), f"holds {shown(node.value)}, no text or number: {_one_line(error)}") from None


def _yaml_key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise RowError(_line(node), "has a list or mapping as a key")
    return str(node.value)


def _one_line(reason: object) -> str:
    return shown(" ".join(str(reason).split()))[1:-1]


def plain(value: Any) -> Any:
    """A value as JSON holds it: dates become text, and numbers that are none become null.

    Raises:
        TypeError: it is something else, such as a picture; UnicodeEncodeError: it is text that cannot be stored.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair, which JSON can escape, is no text
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: plain(entry) for name, entry in value.items()}
    raise TypeError(f"{type(value).__name__} is no plain data")


def _line(part: Any) -> int:
    """Where a node or event of YAML begins."""
    return int(part.start_mark.line) + 1
