"""Which text a prompt quotes, in the marks of any language, and which texts are the same."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advantageflow.prompts import load_prompts
from advantageflow.rewards.ocr import OCR, similarity
from advantageflow.rewards.quotes import comparable, quoted_text


@pytest.mark.parametrize(
    "prompt",
    [
        'a sign that says "HELLO"',
        'a sign that says "HELLO" and "WORLD"',
        'a sign"HELLO"',
        'a 24" screen with "HELLO" on it',
        'a 24"x36" poster, "HELLO"',
        "a 24” screen with “HELLO” on it",
        'a man of 5\'10" with "HELLO" on his shirt',
        '"HELLO" on a 24" screen',
        'the dog\'s sign says "HELLO"',
        "the artist's 'blue' sign says \"HELLO\"",
        "a sign that says “HELLO”",
        "ein Schild mit „HELLO“",
        "szyld z napisem „HELLO”",
        "en skylt med ”HELLO”",
        "вывеска «HELLO»",
        "une enseigne « HELLO »",
        "et skilt med »HELLO«",
        "kyltti »HELLO»",
        "写着「HELLO」的招牌",
        "写着『HELLO』的招牌",
        "写着“HELLO”的招牌",
        "写着＂HELLO＂的招牌",
        "看板〝HELLO〟",
        "看板｢HELLO｣",
        "a sign that says ‘HELLO’",
        "a sign that says 'HELLO'",
        "the shop's sign: 'HELLO'",
        "the dogs' sign: 'HELLO'",
        "a '90s poster that says 'HELLO'",
        "a rock 'n' roll poster that says 'HELLO'",
        "ein Schild mit ‚HELLO‘",
        "une enseigne ‹HELLO›",
    ],
)
def test_the_quoted_text_is_found(prompt):
    assert quoted_text(prompt) == "HELLO"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('the number "Route 66" on a sign', "Route 66"),
        ('"24" on a door', "24"),
        ("a sign that says 'Don't stop'", "Don't stop"),
        ("a sign that says ‘Don’t stop’", "Don’t stop"),
        ('a sign that says "Don\'t stop"', "Don't stop"),
        ("“He said ‘hi’”", "He said ‘hi’"),
        ("“a “b” c”", "a “b” c"),
        ("«a «b» c»", "a «b» c"),
        ("„Er sagte ‚ja‘“", "Er sagte ‚ja‘"),
        ('«a "b" c»', 'a "b" c'),
        ("看板に「彼は『はい』と」", "彼は『はい』と"),
    ],
)
def test_what_is_quoted_within_belongs_to_it(prompt, text):
    assert quoted_text(prompt) == text


@pytest.mark.parametrize(
    "prompt",
    [
        "a sign",
        "the dog's bowl isn't full",
        "the dogs' and the cats' bowls",
        "rock 'n' roll",
        'a 24" screen and a 32" screen',
        'a sign that says "OPEN',
        'a sign that says "OPEN" or "CLOSED',
        'a sign that says ""',
        'a sign that says " "',
        "a sign that says “OPEN",
        "a sign that says OPEN”",
        "a sign that says „OPEN",
        "看板「OPEN",
        "看板OPEN」",
        "a sign that says «OPEN",
        "a 'blue 'OPEN' sign",
        'a sign that says "\u200b"',
    ],
)
def test_a_prompt_without_one_clear_text_is_refused(prompt):
    with pytest.raises(ValueError, match="double quotation marks"):
        quoted_text(prompt)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ＨＥＬＬＯ", "hello"),
        ("CAFÉ", "cafe\u0301"),
        ("Straße", "STRASSE"),
        ("ﬁsh", "FISH"),
        ("DON’T", "don't"),
        ("A–Z", "a-z"),
        ("ΟΔΟΣ", "οδος"),
        ("한국", unicodedata.normalize("NFD", "한국")),
        ("が", "か\u3099"),
        ("ｶﾞ", "ガ"),
        ("two\u00a0words", "TWO WORDS"),
        ("\u200bzero\u00ad", "zero"),
        ("e\u0323\u0302", "e\u0302\u0323"),
    ],
)
def test_equal_texts_compare_equal_however_they_are_encoded(wanted, found):
    assert comparable(wanted) == comparable(found)
    assert similarity(wanted, found) == 1


def test_letters_that_differ_stay_different():
    assert similarity("CAFÉ", "CAFE") == 0.75


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1 '\"‘’“”„«»「」", max_size=30))
def test_any_prompt_has_a_text_or_is_refused(prompt):
    try:
        text = quoted_text(prompt)
    except ValueError:
        return
    assert comparable(text)
    assert text in prompt


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_canonical_forms_compare_equal(text):
    assert comparable(unicodedata.normalize("NFD", text)) == comparable(unicodedata.normalize("NFC", text))
    assert comparable(text) == comparable(text.swapcase()) or not text.isascii()


def test_generated_prompts_want_what_stands_between_their_first_marks():
    for source in ("ocr:200", "words:train"):
        for prompt in load_prompts(source).texts:
            assert quoted_text(prompt) == prompt.split('"')[1]


def test_what_was_understood_is_said():
    reward = OCR(reader=lambda image: [])
    assert reward.understood('a 24" screen with "HELLO" on it') == "wants 'HELLO'"
    assert reward.understood('"A" or "B"') == "wants 'A', and does not look for 'B'"
