"""Reading what runs and evaluations left on disk: whatever is wrong with a file is one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advantageflow.errors import ConfigError
from advantageflow.reading import parse_yaml


class DamagedError(ConfigError):
    """A file that cannot be read or does not hold what was written to it."""


def read_text(file: Path) -> str:
    """A file's text, which is UTF-8.

    Raises:
        DamagedError: it is not there, cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DamagedError(f"{file} is missing") from None
    except UnicodeDecodeError as error:
        raise DamagedError(f"{file} is damaged: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise DamagedError(f"cannot read {file}: {error.strerror}") from None


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DamagedError: see `read_text`, or it is not JSON.
    """
    return _parsed(read_text(file), str(file))


def read_object(file: Path, keys: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """A JSON object that has at least these keys, with values of these types.

    Raises:
        DamagedError: see `read_json`, or it is something else.
    """
    return _checked(read_json(file), keys or {}, str(file))


def read_list(file: Path, keys: Mapping[str, type | tuple[type, ...]]) -> list[dict[str, Any]]:
    """A JSON list of objects that each have these keys.

    Raises:
        DamagedError: see `read_object`, or the list is empty.
    """
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise DamagedError(f"{file} is damaged: it holds no list")
    return [_checked(entry, keys, f"{file} entry {number}") for number, entry in enumerate(entries, 1)]


def read_rows(file: Path, keys: Mapping[str, type | tuple[type, ...]] | None = None) -> list[dict[str, Any]]:
    """The objects of a file with one in each line; a last line that a kill cut off is not one.

    Raises:
        DamagedError: see `read_object`; the message gives the line.
    """
    lines = read_text(file).split("\n")[:-1]
    places = [f"{file} line {number}" for number in range(1, len(lines) + 1)]
    return [_checked(_parsed(line, place), keys or {}, place) for line, place in zip(lines, places, strict=True)]


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DamagedError: see `read_text`, or it is something else.
    """
    text = read_text(file)
    try:
        content = parse_yaml(text, str(file))
    except ConfigError as error:
        raise DamagedError(str(error)) from None
    return _checked(content, {}, str(file))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{place} is damaged: not JSON, {error}") from None


def _checked(value: Any, keys: Mapping[str, type | tuple[type, ...]], place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"{place} is damaged: it holds {type(value).__name__}, not named values")
    for key, kind in keys.items():
        if key not in value:
            raise DamagedError(f"{place} is damaged: {key!r} is missing")
        if not isinstance(value[key], kind) or (isinstance(value[key], bool) and kind is not bool):
            raise DamagedError(f"{place} is damaged: {key!r} is of the type {type(value[key]).__name__}")
    return value
