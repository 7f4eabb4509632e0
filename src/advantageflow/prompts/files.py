"""Prompt files as rows: each is read as what its suffix and its content both say it is, or refused with the line.

A row is a text, or a mapping of columns. What is read: lines of text, JSON, JSON lines, YAML lists, CSV, TSV, Parquet.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advantageflow.errors import ConfigError, shown
from advantageflow.prompts.trees import RowError, json_array_rows, json_lines_rows, yaml_rows

Row = tuple[int, Any]  # line, and a text or a mapping of columns

MAX_BYTES = 2**29  # of a file that is held in memory as text
FORMATS = {
    "": "text", ".txt": "text", ".text": "text",
    ".json": "JSON", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".yaml": "YAML", ".yml": "YAML",
    ".csv": "CSV", ".tsv": "TSV", ".tab": "TSV", ".parquet": "Parquet", ".pq": "Parquet",
}  # fmt: skip
BINARY = {
    b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive or an office document",
    b"PK\x05\x06": "an empty zip archive", b"BZh91AY&SY": "a bzip2 archive", b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!\x1a": "a rar archive",
    b"%PDF-": "a PDF", b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database", b"\x93NUMPY": "a NumPy array", b"\xd0\xcf\x11\xe0": "an office document",
    b"{\\rtf": "an RTF document",
}  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# UTF-32's marks begin with UTF-16's
MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
NOT_TEXT = {
    r"[!-/:-@\[-`{-~\s]+": "punctuation alone, as of JSON or YAML",
    r"([-*•+>]\s|\|).*": "an entry of a list or table; remove the mark, or name a list .yaml",
    r"#{1,6}\s.*": "a heading or comment, which a text file cannot have",
    r"""\{\s*["'][^"']*["']\s*:.*""": "JSON; name the file .jsonl",
    r"""\[\s*((["']).*\2\s*[,\]]*|\{\s*["'].*)""": "JSON; name the file .json",
    r"[^\t]*\t.*": "text with a tab; name a table .tsv",
    r"(?i)(prompts?|caption)\s*[:=]\s.*": "a key and its value; keep the value, or name the file .yaml",
    r"ï»¿.*": "text after a byte-order mark that was taken for letters; save the file as UTF-8",
    r"(?i)<(\?xml|!doctype|html)\b.*": "XML or HTML",
}
NUMBERED = re.compile(r"\d+[.)]\s")
QUOTED = re.compile(r"""(["'])(?:(?!\1).)*\1\s*[,;]?""")


def read_rows(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """Rows in their order, each with its place for messages ("prompts.csv line 7").

    Args:
        column: a name that a table's header must have.

    Raises:
        ConfigError: the file cannot be read, or as nothing that has rows; with the line, where one is to blame.
    """
    source, kind = str(path), FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"prompt file {shown(source)} ends in {shown(path.suffix)}; it should end in one of "
            f"{', '.join(filter(None, FORMATS))} and be what it says"
        )
    try:
        with path.open("rb") as file:
            head = file.read(2**16)
            _check_kind(source, head, kind)
            if kind == "Parquet":
                yield from ((f"{source} row {number}", row) for number, row in enumerate(_parquet_rows(path), 1))
                return
            content = head + file.read(MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the prompt file {shown(source)}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"prompt file {shown(source)} has more than {MAX_BYTES >> 20} MB; store it as Parquet")
    text = _decode(source, content)
    readers: dict[str, Callable[[], Iterator[Row]]] = {
        "text": lambda: _text_rows(text, column),
        "JSON": lambda: _json_rows(text),
        "JSON lines": lambda: json_lines_rows(text),
        "YAML": lambda: yaml_rows(text),
        "CSV": lambda: _table_rows(source, text, column, ",;\t"),
        "TSV": lambda: _table_rows(source, text, column, "\t"),
    }
    try:
        yield from ((f"{source} line {line}", row) for line, row in readers[kind]())
    except RowError as bad:
        raise ConfigError(f"{source} line {bad.line} {bad.reason}") from bad


def _check_kind(source: str, head: bytes, kind: str) -> None:
    """Whether the first bytes are those of this kind of file."""
    if head.startswith(LFS_POINTER):
        raise ConfigError(f"{source} line 1 is a pointer of Git LFS in place of the file; fetch it with: git lfs pull")
    found = next((name for mark, name in BINARY.items() if head.startswith(mark)), None)
    if kind == "Parquet" and found != BINARY[b"PAR1"]:
        raise ConfigError(f"{source} is named as a Parquet file, but is {found or 'none'}")
    if kind != "Parquet" and found == BINARY[b"PAR1"]:
        raise ConfigError(f"{source} line 1: it is a Parquet file, not {kind}; name it .parquet")
    if kind != "Parquet" and found:
        raise ConfigError(f"{source} line 1: it is {found}, not {kind}; unpack or save it as {kind}")


def _decode(source: str, content: bytes) -> str:
    """Text by its byte-order mark, else as UTF-8; line ends of every system become line feeds."""
    mark, encoding = next(((m, name) for m, name in MARKS.items() if content.startswith(m)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = content[len(mark) :][: error.start].decode(encoding, "replace")
        raise ConfigError(
            f"{source} line {before.count(chr(10)) + 1} is not {encoding.upper()} "
            f"(byte 0x{error.object[error.start]:02x}: {error.reason}); save the file as UTF-8"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if bad := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffd-\uffff]", text):
        reason = {
            "\0": "NUL: it is no text, or UTF-16 without a byte-order mark",
            "\ufeff": "a byte-order mark in its middle: it was joined of several files",
            "\ufffd": "U+FFFD: letters were lost when it was converted",
        }.get(bad[0], f"the control character U+{ord(bad[0]):04X}: it is no text, or in another encoding")
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(f"{source} line {line} holds {reason}; save the file as UTF-8")
    return text


def _text_rows(text: str, column: str) -> Iterator[Row]:
    """A prompt a line; a line that belongs to another format is refused."""
    lines = text.rstrip().split("\n")
    stripped = [line.strip() for line in lines if line.strip()]
    header = {name.strip(" \"'").lower() for name in re.split("[,;\t|]", stripped[0])} if stripped else set()
    if header & {column.lower(), "prompt", "prompts", "caption"}:
        raise RowError(1, f"is {shown(stripped[0])}, a table's header; name the file .csv, or remove the line")
    for every, what in ((NUMBERED.match, "begins with a number of a list"), (QUOTED.fullmatch, "is in quotes")):
        if stripped and all(every(line) for line in stripped):
            raise RowError(
                1, f"{what}, as every other: {shown(stripped[0])}; remove these marks, or name the file .csv"
            )
    for number, line in enumerate(lines, 1):
        for pattern, what in NOT_TEXT.items():
            if line.strip() and re.fullmatch(pattern, line.strip()):
                raise RowError(number, f"is {what}: {shown(line.strip())}")
        if line.strip() or len(lines) > 1:
            yield number, line


def _json_rows(text: str) -> Iterator[Row]:
    """An array; or lines of JSON, which many files named .json are."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and all(re.fullmatch(r"\s*\{.*\}\s*", line) for line in lines):
        return json_lines_rows(text)
    return json_array_rows(text)


def _table_rows(source: str, text: str, column: str, delimiters: str) -> Iterator[Row]:
    """Rows under a header; one with more or fewer fields than that is refused.

    The delimiter is the first that makes `column` one of the header's names. A field that begins with a space, where
    the header's do not, is a text with a comma that lacks its quotation marks.
    """
    headers = {delimiter: _header(text, delimiter) for delimiter in delimiters}
    delimiter = next((d for d in delimiters if column in _names(headers[d])), delimiters[0])
    names = _names(headers[delimiter])
    rows = _records(text, delimiter, spaced=any(field.startswith(" ") for field in headers[delimiter][1:]))
    line, _ = next(rows, (0, []))
    if line and column not in names:
        has = shown(", ".join(names))[1:-1]
        raise ConfigError(
            f"{source} row 1 has no text in the column {shown(column)} (its header, line {line}, has {has}); "
            "set prompts.column, or name the columns in the first line"
        )
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise RowError(line, f"names a column twice: {shown(twice)}")
    for line, fields in rows:
        _check_fields(line, fields, names, delimiter)
        yield line, dict(zip(names, fields, strict=True))


def _records(text: str, delimiter: str, spaced: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold anything, with their first lines; `spaced` drops spaces after a delimiter."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    line = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise RowError(line, f"is no row of a table: {error}; write a quotation mark in a quoted text twice") from None


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(_records(text, delimiter), (0, []))[1]
    except RowError:  # by another delimiter it may be one
        return []


def _names(header: list[str]) -> list[str]:
    return [name.strip() for name in header]


def _check_fields(line: int, fields: list[str], names: list[str], delimiter: str) -> None:
    advice = f"put a text with {delimiter!r} in quotation marks"
    if len(fields) != len(names):
        raise RowError(line, f"has {len(fields)} fields and the header {len(names)}: {shown(fields)}; {advice}")
    if astray := [field for field in fields[1:] if field.startswith(" ") and field.strip()]:
        raise RowError(line, f"has a field that begins with a space, {shown(astray[0])}; {advice}, or remove the space")
    if tabbed := [field for field in fields if "\t" in field]:
        raise RowError(line, f"has a tab within a field, {shown(tabbed[0])}; name a table with tabs .tsv")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError('Parquet prompts need pyarrow; install with: pip install "advantageflow[data]"') from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no whole Parquet file: {shown(reason)[1:-1]}") from error
