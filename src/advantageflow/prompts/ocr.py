"""Prompts that ask for writing: one to three words in a place where such words are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WORDS = (
    "Open", "Fresh", "Bakery", "Coffee", "House", "Blue", "River", "Summer", "Market", "Night", "Train", "Golden",
    "Garden", "Silver", "Star", "Quiet", "Library", "Happy", "Birthday", "Welcome", "Home", "Grand", "Hotel",
    "Ocean", "View", "Street", "Music", "Winter", "Sale", "Green", "Energy", "Space", "Travel", "Deep", "Learning",
)  # fmt: skip
PLACES = (
    "a sign that says",
    "a shop window with the words",
    "a book cover titled",
    "a poster that reads",
    "a cake with icing that spells",
    "a T-shirt printed with",
    "a neon light that says",
    "a chalkboard with the text",
)


def generate_prompts(count: int, seed: int) -> Iterator[str]:
    """So many prompts; the same for the same seed."""
    rng = np.random.default_rng([seed, 6])
    for _ in range(count):
        words = " ".join(rng.choice(WORDS, size=rng.integers(1, 4), replace=False))
        yield f'{rng.choice(PLACES)} "{words}"'
