"""The built-in text-to-image models: small `StableDiffusion3Pipeline`s that plain diffusers can load."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from advantageflow.worlds.scenes.prompts import TASKS, task_prompts
from advantageflow.worlds.scenes.world import IMAGE_SIZE

MAX_TOKENS = 10  # the longest prompt has 8 tokens, plus start and end
TEXT_WIDTH = 64


def scene_words() -> set[str]:
    """Every word of the grammar."""
    return {word for task in TASKS for prompt in task_prompts(task) for word in prompt.text.split()}


def build_tokenizer(words: Iterable[str] | None = None, characters: str = ascii_lowercase) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of `words` (of the grammar) is one token; others fall apart into `characters`.

    The byte-pair merges are written down rather than learned: word after word, two left-most pieces at a time, until
    each word is one piece. Later merges rank lower, so they leave earlier words alone.
    """
    pieces = [character + end for end in ("", "</w>") for character in characters]
    merges: list[tuple[str, str]] = []
    for word in sorted(scene_words() if words is None else words):
        split = [*word[:-1], word[-1] + "</w>"]
        for merge in merges:
            split = _merged(split, merge)
        while len(split) > 1:
            merges.append((split[0], split[1]))
            split = _merged(split, merges[-1])
    pieces += list(dict.fromkeys(first + second for first, second in merges))
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merged(split: list[str], merge: tuple[str, str]) -> list[str]:
    """Join the pieces of `merge` wherever they are neighbours."""
    joined: list[str] = []
    for piece in split:
        if joined and (joined[-1], piece) == merge:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_autoencoder() -> AutoencoderKL:
    """Eight-fold compression to 16 channels, SD3's geometry: 64x64x3 pixels -> 8x8x16 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def build_transformer(width: int = 160, num_layers: int = 6) -> SD3Transformer2DModel:
    """16 image tokens of 2·2·16 = 64 numbers. `width` must exceed 64: a velocity holds all of the noise."""
    return SD3Transformer2DModel(
        sample_size=IMAGE_SIZE // 8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=num_layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=IMAGE_SIZE // 16,
        qk_norm="rms_norm",
    )


def build_pipeline(seed: int = 0, tokenizer: CLIPTokenizer | None = None, width: int = 160) -> StableDiffusion3Pipeline:
    """The whole pipeline with fresh weights drawn from `seed`; the tokenizer is the scenes' unless another is given."""
    tokenizer = tokenizer or build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusion3Pipeline(
            transformer=build_transformer(width),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=build_autoencoder(),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=build_text_encoder(tokenizer),
            tokenizer_2=tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
