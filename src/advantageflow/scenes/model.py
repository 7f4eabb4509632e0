"""The built-in text-to-image model: a small `StableDiffusion3Pipeline` that plain diffusers can load."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from advantageflow.scenes.prompts import TASKS, task_prompts
from advantageflow.scenes.world import IMAGE_SIZE

MAX_TOKENS = 10  # the longest prompt has 7 words, plus start and end
TEXT_WIDTH = 64


def build_tokenizer(directory: Path) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the grammar is one token; other words fall apart into letters."""
    words = sorted({word for task in TASKS for prompt in task_prompts(task) for word in prompt.text.split()})
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(words + letters, trainer)
    bpe.model.save(str(directory))
    learned = bpe.get_vocab()
    vocabulary = {token: i for i, token in enumerate(sorted(learned, key=lambda token: learned[token]))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    lines = (directory / "merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


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


def build_pipeline(directory: Path, seed: int = 0) -> StableDiffusion3Pipeline:
    """The whole pipeline with fresh weights drawn from `seed`; `directory` takes the tokenizer's files."""
    tokenizer = build_tokenizer(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusion3Pipeline(
            transformer=build_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=build_autoencoder(),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=build_text_encoder(tokenizer),
            tokenizer_2=tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
