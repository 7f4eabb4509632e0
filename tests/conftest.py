"""Small worlds to test in: a tiny random SD3 pipeline, and double precision by request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


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
