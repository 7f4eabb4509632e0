import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from advantageflow.rewards.ocr import OCR, DrawnWord, edit_distance, quoted_text, similarity
from advantageflow.worlds.words.world import ENGLISH, WordPrompt, misspell, render


def picture_of(text, size=40):
    image = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(image).text((128, 48), text, fill="black", font=ImageFont.load_default(size), anchor="mm")
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3


@pytest.mark.parametrize(
    ("wanted", "found", "score"),
    [
        ("OPEN", "open", 1.0),
        ("Open Bakery", "the OPENBAKERY here", 1.0),
        ("OPEN", "OPFN", 0.75),
        ("OPEN", "", 0.0),
        ("OPEN", "something else entirely", 0.0),
    ],
)
def test_similarity_ignores_spaces_and_capitals(wanted, found, score):
    assert similarity(wanted, found) == pytest.approx(score)


def test_a_prompt_needs_a_quoted_text():
    assert quoted_text('a sign that says "Deep Learning"') == "Deep Learning"
    for prompt in ("a sign", 'a sign that says "OPEN', 'a sign that says ""'):
        with pytest.raises(ValueError, match="double quotation marks"):
            quoted_text(prompt)


def test_it_reads_rendered_words():
    pytest.importorskip("rapidocr")
    images = torch.stack([picture_of("HELLO"), picture_of("HELPO"), picture_of("")])
    prompts = ['a sign that says "HELLO"'] * 3
    assert OCR()(images, prompts) == pytest.approx([1.0, 0.8, 0.0])


def test_it_reads_every_drawn_word():
    pytest.importorskip("rapidocr")
    rng = np.random.default_rng(0)
    words = [WordPrompt(word) for word in ENGLISH]
    pictures = torch.stack([torch.from_numpy(render(word, rng)).permute(2, 0, 1).float() / 255 for word in words])
    scores = DrawnWord()(pictures, [word.text for word in words])
    assert np.mean(np.array(scores) == 1) >= 0.98
    misspelt = [misspell(word, rng) for word in words]
    expected = [similarity(wrong.word, word.word) for wrong, word in zip(misspelt, words, strict=True)]
    assert np.mean(np.isclose(DrawnWord()(pictures, [wrong.text for wrong in misspelt]), expected)) >= 0.95
