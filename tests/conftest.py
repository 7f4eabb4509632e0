"""Small worlds to test in: a tiny random SD3 pipeline, and a tiny random CLIP."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # numbers that are compared to the bit are the CPU's

import pytest
import torch
from command_line import runs_here as runs_here
from warm import launched as launched

torch.set_num_threads(1)
gc.disable()  # what the tests import is no garbage; to look through it takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def path_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test imports from its folder is not found by the next one, whose file may have the same name."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random pipeline of the built-in architecture, one layer deep."""
    from advantageflow.worlds.scenes.model import build_pipeline, build_transformer

    folder = tmp_path_factory.mktemp("tiny")
    pipeline = build_pipeline()
    torch.manual_seed(0)
    pipeline.register_modules(transformer=build_transformer(width=96, num_layers=2))
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture
def tiny_model(tiny_pipeline_folder: Path):
    from advantageflow.models import load_model

    return load_model(str(tiny_pipeline_folder))


@pytest.fixture(scope="module")
def clip():
    """A random CLIP for pictures of 32 x 32 pixels and 10 words, frozen as rewards have it."""
    from transformers import CLIPConfig, CLIPModel

    from advantageflow.rewards.clip import Clip
    from advantageflow.worlds.scenes.model import build_tokenizer

    tokenizer = build_tokenizer()
    tower = {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "projection_dim": 12,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 10,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases and norms too
    return Clip(model, tokenizer)
