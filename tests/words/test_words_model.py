"""The shipped pipeline of words: small, safe, a good draughtsman and a bad speller."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from advantageflow.evaluation import evaluate
from advantageflow.models import load_model
from advantageflow.prompts import load_prompts
from advantageflow.worlds.words import WEIGHTS
from advantageflow.worlds.words.pretrain import WORDS


def test_it_is_a_small_stable_diffusion_3():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 10e6
    assert {file.suffix for file in WEIGHTS.rglob("*") if file.is_file()} == {".json", ".safetensors"}
    pipeline = StableDiffusion3Pipeline.from_pretrained(WEIGHTS, text_encoder_3=None, tokenizer_3=None)
    assert (pipeline.vae_scale_factor, pipeline.vae.config.latent_channels) == (8, 16)


def test_its_autoencoder_keeps_words_readable():
    pytest.importorskip("rapidocr")
    from advantageflow.rewards.ocr import DrawnWord

    vae = load_model("words").pipeline.vae
    images, prompts = WORDS.batch(np.random.default_rng(0), 60)
    with torch.no_grad():
        restored = vae.decode(vae.encode(images).latent_dist.mode()).sample
    scores = DrawnWord()((restored / 2 + 0.5).clamp(0, 1), [prompt.text for prompt in prompts])
    assert np.mean(np.array(scores) == 1) >= 0.95


def test_it_draws_letters_and_spells_badly():
    """Held-out English words, which it was never shown: half of the letters right, so there is room to improve."""
    pytest.importorskip("rapidocr")
    from advantageflow.rewards.ocr import DrawnWord

    model = load_model("words")
    found = evaluate(model, model.transformer, load_prompts("words:held_out"), {"ocr": DrawnWord()}, num_images=192)
    assert 0.5 <= found.scores["ocr"] <= 0.85
    assert set(found.tasks) == {"3 letters", "4 letters"}
