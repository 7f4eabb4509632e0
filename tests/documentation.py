"""What the repository's pages hold: links, commands and Python, as a reader would follow, type and run them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")],
    key=lambda path: path.as_posix(),
)
FENCE = re.compile(
    r"(?:^ *<!-- needs: (?P<needs>[\w, ]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
INDENTED = re.compile(r"^ {4}((?:advantageflow|make|pip) .*)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(advantageflow [^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^()\s]+)\)")
SHELLS = ("sh", "bash", "console")
OPERATORS = ("&&", "||", "|", ";", ">", ">>", "<", "2>&1", "&")


@dataclass(frozen=True)
class Block:
    """A fenced block, with what a comment before it says that it needs."""

    language: str
    text: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command of ours, as the words that a shell makes of it.

    Args:
        told: it stands in a sentence, where RECIPE and … stand for something.
    """

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    told: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(
            found["language"],
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            tuple(need.strip() for need in (found["needs"] or "").split(",") if need),
        )
        for found in FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead inside of the repository."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names that GitHub gives to a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset(found)


def commands(page: Path) -> list[Command]:
    """The commands of ours that a page shows."""
    found = [
        Command(words, block.needs)
        for block in blocks(page)
        if block.language in SHELLS
        for line in re.sub(r"\\\n\s*", "", block.text).splitlines()
        for words in typed(line.removeprefix("$ "))
    ]
    text = prose(page)
    found += [Command(words, told=True) for line in INDENTED.findall(text) for words in typed(line)]
    return found + [Command(words, told=True) for line in INLINE.findall(text) for words in typed(line)]


def typed(line: str) -> list[tuple[str, ...]]:
    """The words of each command of ours in a line, without variables, launchers and where output goes."""
    line = re.sub(r"\$\{?\w+\}?", "8", line)
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a sentence, or a script's half
        return []
    commands: list[list[str]] = [[]]
    redirected = False
    for word in words:
        if word in OPERATORS:
            redirected = word in (">", ">>", "<")
            commands.append([])
        elif redirected:
            redirected = False
        else:
            commands[-1].append(word)
    return [tuple(ours) for each in commands if (ours := _ours(each))]


def _ours(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words and words[0] in ("torchrun", "accelerate", "srun", "exec") and "advantageflow" in words:
        words = words[words.index("advantageflow") :]
    if words[:3] == ["python", "-m", "advantageflow"]:
        words = words[2:]
    name = words[0].removeprefix(".venv/bin/") if words else ""
    return [name, *words[1:]] if name in ("advantageflow", "make", "pip") else []
