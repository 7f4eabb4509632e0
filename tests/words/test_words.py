from string import ascii_uppercase

import numpy as np
import pytest

from advantageflow.config import ConfigError
from advantageflow.prompts import load_prompts
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS
from advantageflow.worlds.words.pretrain import WORDS, build_pipeline
from advantageflow.worlds.words.world import (
    ENGLISH,
    LETTER_HEIGHT,
    LETTER_WIDTH,
    WordPrompt,
    glyph,
    misspell,
    random_word,
    render,
    split_prompts,
)


def test_splits_share_no_word_and_make_the_whole_list():
    train, held_out = ({prompt.word for prompt in split_prompts(split)} for split in ("train", "held_out"))
    assert not train & held_out
    assert train | held_out == set(ENGLISH)
    assert len(held_out) == pytest.approx(len(ENGLISH) / 4, abs=1)
    assert load_prompts("words:train").tasks[0] in ("3 letters", "4 letters")
    with pytest.raises(ConfigError, match="words:train and words:held_out"):
        load_prompts("words:test")


def test_words_are_three_or_four_capital_letters():
    rng = np.random.default_rng(0)
    for word in (*ENGLISH, *(random_word(rng).word for _ in range(100))):
        assert len(word) in (3, 4)
        assert set(word) <= set(ascii_uppercase)


def test_a_misspelt_word_differs_in_one_to_three_letters():
    rng = np.random.default_rng(0)
    wrong = [(word, misspell(WordPrompt(word), rng).word) for word in ENGLISH]
    differences = [sum(one != other for one, other in zip(*pair, strict=True)) for pair in wrong]
    assert set(differences) == {1, 2, 3}


def test_every_listed_word_is_spelt_letter_by_letter():
    """Three tokens for start, end and each word and quotation mark, and one per letter."""
    tokenizer = build_pipeline().tokenizer
    for word in ENGLISH:
        assert len(tokenizer(WordPrompt(word).text).input_ids) == len(word) + 6


def test_letters_fit_their_cells_and_differ():
    glyphs = {letter: glyph(letter) for letter in ascii_uppercase}
    for mask in glyphs.values():
        assert mask.shape[0] == LETTER_HEIGHT
        assert mask.shape[1] <= LETTER_WIDTH
        assert mask.max() == 1
    assert len({mask.tobytes() for mask in glyphs.values()}) == len(ascii_uppercase)


def test_a_picture_shows_one_colour_in_its_middle_half():
    rng = np.random.default_rng(0)
    for word in ENGLISH[:40]:
        picture = render(WordPrompt(word), rng)
        assert (picture[:16] == BACKGROUND).all()
        assert (picture[48:] == BACKGROUND).all()
        full = picture.reshape(-1, 3)[np.abs(picture.reshape(-1, 3).astype(int) - BACKGROUND).sum(1).argmax()]
        assert tuple(full.tolist()) in COLORS.values()


def test_pictures_and_captions_of_pre_training():
    images, prompts = WORDS.batch(np.random.default_rng(0), 8)
    assert images.shape == (8, 3, 64, 64)
    assert images.min() >= -1
    assert images.max() <= 1
    captions = [WORDS.caption(prompts[0], np.random.default_rng(i), WORDS.corrupted) for i in range(200)]
    assert {"", prompts[0].text} < set(captions)
