"""Which text a prompt puts in quotation marks, in the marks of any language, and when two texts are the same.

The marks are Unicode's (property Quotation_Mark). Straight ones are told from inch marks and apostrophes.
"""

from __future__ import annotations

import re
import unicodedata

from advantageflow.errors import shown

# Opening mark -> what may close it. Some open in one language and close in another.
DOUBLE = {
    '"': '"', "＂": "＂", "“": "”", "„": "“”‟", "‟": "”", "”": "”", "⹂": "“”",
    "«": "»", "»": "«»", "「": "」", "『": "』", "｢": "｣", "﹁": "﹂", "﹃": "﹄", "〝": "〞〟",
}  # fmt: skip
SINGLE = {"'": "'", "＇": "＇", "‘": "’", "’": "’", "‚": "‘’", "‛": "’", "‹": "›", "›": "‹›"}
ONLY_CLOSING = set("".join(DOUBLE.values())) - set(DOUBLE)
INCHES = '"”＂'
APOSTROPHES = "'’＇"
# 'n' as in rock 'n' roll, '90s, 'tis
ELISION = re.compile(r"['’＇](n['’＇](?!\w)|\d\ds?\b(?!['’＇])|(tis|twas|em|til|cause|bout|round)\b)", re.IGNORECASE)
# Marks that differ in their drawing alone; Unicode's own normalization leaves them apart
SAME = str.maketrans({**dict.fromkeys("‘’‚‛ʼ′`´", "'"), **dict.fromkeys("“”„‟″", '"'), **dict.fromkeys("‐‑‒–—−", "-")})
NEEDS = 'the OCR reward needs a text in double quotation marks, as in a sign that says "OPEN"'


def quoted_text(prompt: str) -> str:
    """The first quoted text: in double marks of any kind; where there are none, in single ones.

    In plain prompts this is what stands between the first pair of straight double marks, as in arXiv 2505.05470's code.
    A straight mark after a digit is an inch mark unless it closes a text. What is quoted within a quoted text is part
    of that.

    Raises:
        ValueError: nothing is quoted, the first text is empty, or a mark has no partner.
    """
    texts = quoted_texts(prompt)
    if not texts or not comparable(texts[0]):
        raise ValueError(f"{NEEDS}: {shown(prompt)}")
    return texts[0]


def quoted_texts(prompt: str) -> list[str]:
    """All texts in double marks, or, where there are none, all in single marks.

    Raises:
        ValueError: a double mark has no partner, or a text in single marks may begin in two places.
    """
    return [text.strip() for text in _double(prompt) or _single(prompt)]


def _double(prompt: str) -> list[str]:
    texts, at = [], 0
    while at < len(prompt):
        mark = prompt[at]
        if mark in ONLY_CLOSING or (mark in DOUBLE and not _is_inch(prompt, at)):
            end = _end(prompt, at)
            if end is None:
                raise ValueError(f"{NEEDS}; the mark {mark} has no partner in {shown(prompt)}")
            texts.append(prompt[at + 1 : end])
            at = end
        at += 1
    return texts


def _is_inch(prompt: str, at: int) -> bool:
    return prompt[at] in INCHES and at > 0 and unicodedata.category(prompt[at - 1]) in ("Nd", "No")


def _end(prompt: str, start: int) -> int | None:
    """Where the text that opens at `start` is closed; pairs of the same marks may lie within."""
    mark, depth = prompt[start], 0
    closers = DOUBLE.get(mark, "")
    for at in range(start + 1, len(prompt)):
        if prompt[at] in closers:
            if not depth:
                return at
            depth -= 1
        elif prompt[at] == mark:
            depth += 1
    return None


def _single(prompt: str) -> list[str]:
    """Texts in single marks; a mark that opens and is never closed is an apostrophe."""
    texts, at = [], 0
    while at < len(prompt):
        closers = SINGLE.get(prompt[at], "") if _opens(prompt, at) else ""
        end = next((i for i in range(at + 1, len(prompt)) if prompt[i] in closers and _closes(prompt, i)), None)
        if end is not None:
            if any(prompt[i] == prompt[at] and _opens(prompt, i) for i in range(at + 1, end)):
                raise ValueError(f"{NEEDS}; where the text in single ones begins is not clear: {shown(prompt)}")
            texts.append(prompt[at + 1 : end])
            at = end
        at += 1
    return texts


def _opens(prompt: str, at: int) -> bool:
    """Whether a single mark can open a text: an apostrophe follows a letter, or stands for what is left out."""
    if prompt[at] not in APOSTROPHES:
        return True
    before, after = prompt[at - 1 : at], prompt[at + 1 : at + 2]
    return not before.isalnum() and bool(after.strip()) and not ELISION.match(prompt, at)


def _closes(prompt: str, at: int) -> bool:
    if prompt[at] not in APOSTROPHES:
        return True
    elided = ELISION.match(prompt, at) or (at > 1 and ELISION.match(prompt[: at + 1], at - 2))
    return bool(prompt[at - 1].strip()) and not prompt[at + 1 : at + 2].isalnum() and not elided


def comparable(text: str) -> str:
    """Equal for texts that are the same however they are encoded; without spaces, capitals and what cannot be seen."""
    text = unicodedata.normalize("NFC", text).translate(SAME)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(letter for letter in text if not (letter.isspace() or _is_invisible(letter)))
    return unicodedata.normalize("NFKC", seen)  # what was apart may now be one letter


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"
