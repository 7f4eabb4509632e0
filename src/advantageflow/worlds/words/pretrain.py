"""What the built-in model of words is pre-trained on: random letters, with captions that may be misspelt."""

from __future__ import annotations

from string import ascii_lowercase

from diffusers import StableDiffusion3Pipeline

from advantageflow.worlds.pretraining import World
from advantageflow.worlds.scenes import model
from advantageflow.worlds.words.world import misspell, random_word, render


def build_pipeline(seed: int = 0) -> StableDiffusion3Pipeline:
    """The whole pipeline with fresh weights drawn from `seed`; its tokenizer spells words letter by letter."""
    tokenizer = model.build_tokenizer(("the", "word"), ascii_lowercase + '"')
    return model.build_pipeline(seed, tokenizer, width=128)


WORDS = World(
    sample=random_word,
    render=render,
    corrupt=misspell,
    build_pipeline=build_pipeline,
    corrupted=0.6,  # spelling is learned so fast that fewer and later ones would leave little to improve
    corrupted_from=0.5,
)
