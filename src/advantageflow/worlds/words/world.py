"""Drawn words: three or four capital letters across the middle of a 64x64 picture, for the OCR reward to read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from string import ascii_uppercase

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from advantageflow.errors import shown
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS, IMAGE_SIZE

LETTER_HEIGHT = 24
LETTER_WIDTH = 14  # at most; wide letters are squeezed
LETTER_STEP = 15  # from centre to centre
HELD_OUT_EVERY = 4
# Words that reinforcement learning sees; pre-training knows only random letters.
_ENGLISH = """
ACE ADD AGE AIR ANT APE ARM ART ASK BAG BED BEE BIG BOX BOY BUS CAB CAT COW CUP DAY DOG DRY EAR EGG ELF END EYE
FAN FAR FIG FLY FOG FOX FUN GEM GUM HAT HEN ICE INK JAM JAR JET JOY KEY KID LAW LEG LIP LOG MAP MIX MUD NET NEW
NUT OAK OIL OWL PAN PEN PIE PIG RED ROW RUG SEA SKY SUN TEA TOY VAN WAX WEB YES ZIP ZOO ABLE ACID ALSO AREA BABY
BACK BALL BAND BANK BEAR BELL BIRD BLUE BOAT BODY BOOK CAKE CALM CARD CITY CLAY COIN COLD CROW DARK DEER DESK
DOOR DUCK DUST EAST ECHO EDGE EXIT FACE FARM FILM FIRE FISH FLAG FROG GAME GATE GIFT GOLD HAND HARP HAWK HOME
HUGE IDEA IRIS IRON JAZZ JUMP KELP KING KITE KIWI LAKE LAMP LEAF LION LUCK MAIL MASK MILK MOON NEST NECK NOTE
OPEN OVEN PARK PATH QUIZ RAIN RING ROAD ROSE SAND SHIP SNOW STAR TREE UNIT VASE VERY WAVE WIND YARD YEAR ZERO
ZONE
"""
ENGLISH = _ENGLISH.split()


@dataclass(frozen=True)
class WordPrompt:
    """A word of three or four capital letters."""

    word: str

    @property
    def text(self) -> str:
        return f'the word "{self.word}"'

    @property
    def task(self) -> str:
        return f"{len(self.word)} letters"


def split_prompts(split: str, seed: int = 0) -> list[WordPrompt]:
    """The prompts of one split, "train" or "held_out"; they share no word."""
    if split not in ("train", "held_out"):
        raise ValueError(f"unknown split {shown(split)}; use 'train' or 'held_out'")
    order = np.random.default_rng([seed, 8]).permutation(len(ENGLISH))
    return [WordPrompt(ENGLISH[i]) for n, i in enumerate(order) if (n % HELD_OUT_EVERY == 0) == (split == "held_out")]


def random_word(rng: np.random.Generator) -> WordPrompt:
    """Three or four random letters."""
    return WordPrompt("".join(rng.choice(list(ascii_uppercase), size=rng.integers(3, 5))))


def misspell(prompt: WordPrompt, rng: np.random.Generator) -> WordPrompt:
    """Replace one to three letters by others."""
    letters = list(prompt.word)
    for at in rng.permutation(len(letters))[: rng.integers(1, 4)]:
        others = ascii_uppercase.replace(letters[at], "")
        letters[at] = others[rng.integers(len(others))]
    return WordPrompt("".join(letters))


@lru_cache
def glyph(letter: str) -> np.ndarray:
    """Opacity of a letter in [0, 1], float64 [LETTER_HEIGHT, at most LETTER_WIDTH], from Pillow's own font."""
    large = Image.new("L", (160, 160))
    ImageDraw.Draw(large).text(
        (80, 120), letter, font=ImageFont.load_default(80), anchor="ms", fill=255, stroke_width=1
    )
    box = large.getbbox()
    assert box is not None
    letter_only = large.crop((box[0], 61, box[2], 123))  # from the top of capitals to the depth of a Q
    width = max(2, min(LETTER_WIDTH, round(letter_only.width * LETTER_HEIGHT / letter_only.height)))
    return np.asarray(letter_only.resize((width, LETTER_HEIGHT), Image.Resampling.LANCZOS)) / 255


def render(prompt: WordPrompt, rng: np.random.Generator) -> np.ndarray:
    """Draw a word in a random colour, a pixel or two off the centre: uint8 [64, 64, 3]."""
    color = np.array(list(COLORS.values())[rng.integers(len(COLORS))], dtype=np.float64)
    left, top = rng.integers(-1, 2), IMAGE_SIZE // 2 - LETTER_HEIGHT // 2 + rng.integers(-2, 3)
    alpha = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    for i, letter in enumerate(prompt.word):
        mask = glyph(letter)
        center = IMAGE_SIZE / 2 + left + (i - (len(prompt.word) - 1) / 2) * LETTER_STEP
        start = round(center - mask.shape[1] / 2)
        area = alpha[top : top + LETTER_HEIGHT, start : start + mask.shape[1]]
        np.maximum(area, mask, out=area)
    image = (1 - alpha[..., None]) * np.array(BACKGROUND, dtype=np.float64) + alpha[..., None] * color
    return np.rint(image).astype(np.uint8)
