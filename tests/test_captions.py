"""Text under pictures."""

import pytest

from advantageflow.run.captions import caption, characters, font_file, marked

LONG = "a red circle to the left of a blue square " * 5


@pytest.mark.parametrize("text", [LONG, "x" * 300, "красный круг слева от синего квадрата " * 5, "你好" * 60, ""])
@pytest.mark.parametrize("most", [1, 3])
def test_text_stays_in_its_place(text, most):
    lines, font = caption(text, 13, 192, most)
    assert 1 <= len(lines) <= most
    assert all(font.getlength(line) <= 192 for line in lines)
    if text.isascii() and text:
        assert lines[-1].endswith("…")


def test_short_text_is_whole():
    assert caption("a red circle", 13, 192, 3)[0] == ["a red circle"]
    assert " ".join(caption("a red circle to the left of a blue square", 13, 192, 3)[0]) == LONG[:41]


@pytest.mark.parametrize("text", ["Grüße", "красный круг", "κύκλος", "“HELLO” – 1 × 2"])
def test_a_font_is_found_that_has_the_characters(text):
    assert {ord(c) for c in text if c != " "} <= characters(font_file(frozenset(text)))
    assert " ".join(caption(text, 13, 500, 1)[0]) == text


def test_what_no_font_has_is_told_and_not_a_box():
    nowhere = "\U0010fffd"
    assert caption(f"a sign {nowhere * 3} here", 13, 500, 1)[0] == ["a sign [3 characters] here"]
    assert marked(f"{nowhere} x", frozenset({ord("x")})) == "[1 character] x"
