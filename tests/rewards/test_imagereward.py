"""The official weights' names, and the score, on a tiny random BLIP."""

import pytest
import torch
from transformers import BlipConfig

from advantageflow.rewards.clip import prepare_as_pictures
from advantageflow.rewards.imagereward import (
    BLOCK,
    MEAN,
    STD,
    VISION,
    ImageReward,
    ImageRewardModel,
    official_config,
    to_transformers,
)


def tiny_config():
    return BlipConfig(
        text_config={
            "vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "encoder_hidden_size": 16, "max_position_embeddings": 40,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
    )  # fmt: skip


def tiny_model():
    torch.manual_seed(0)
    return ImageRewardModel(tiny_config()).eval()


def tokenize(prompts, **options):
    assert options["max_length"] == 35
    ids = torch.tensor([[2, 3 + len(prompt) % 20] + [0] * 33 for prompt in prompts])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def official_names(state):
    """Our names turned into those of the official file, with tensors that belong to BLIP's pre-training."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("head."):
            _, place, kind = name.split(".")
            renamed[f"mlp.layers.{(0, 2, 4, 6, 7)[int(place)]}.{kind}"] = tensor
        elif name.startswith("text_encoder."):
            renamed[f"blip.{name}"] = tensor
        elif name.startswith("vision_model.encoder.layers."):
            layer, _, rest = name.removeprefix("vision_model.encoder.layers.").partition(".")
            module, _, kind = rest.rpartition(".")
            back = {new: old for old, new in BLOCK.items()}[module]
            renamed[f"blip.visual_encoder.blocks.{layer}.{back}.{kind}"] = tensor
        else:
            rest = name.removeprefix("vision_model.")
            back = {new: old for old, new in VISION.items()}
            module, _, kind = rest.rpartition(".")
            renamed["blip.visual_encoder." + (back[rest] if rest in back else f"{back[module]}.{kind}")] = tensor
    others = ("blip.vision_proj.weight", "blip.text_encoder.embeddings.position_ids")
    return {**renamed, **{name: torch.zeros(1) for name in others}}


def test_official_weights_are_loaded_under_their_names():
    model = tiny_model()
    state = official_names(model.state_dict())
    assert "blip.visual_encoder.blocks.0.attn.qkv.weight" in state
    assert "blip.visual_encoder.patch_embed.proj.weight" in state
    assert "blip.text_encoder.encoder.layer.1.crossattention.self.query.weight" in state
    other = ImageRewardModel(tiny_config())
    other.load_state_dict(to_transformers(state))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_scores_are_standardized_and_depend_on_image_and_prompt():
    model = tiny_model()
    images, prompts = torch.rand(2, 3, 32, 32), ["a cup", "a green dog"]
    tokens = tokenize(prompts, max_length=35)
    with torch.no_grad():
        raw = model(prepare_as_pictures(images, 32), tokens["input_ids"], tokens["attention_mask"])
    scores = ImageReward(model, tokenize)(images, prompts)
    torch.testing.assert_close(scores, (raw - MEAN) / STD)
    swapped = ImageReward(model, tokenize)(images, prompts[::-1])
    assert not torch.allclose(scores, swapped)


def test_the_official_size():
    with torch.device("meta"):
        model = ImageRewardModel(official_config())
    assert model.text_encoder.embeddings.word_embeddings.weight.shape == (30524, 768)
    assert model.vision_model.embeddings.position_embedding.shape == (1, 197, 1024)
    assert model.head[0].weight.shape == (1024, 768)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(447e6, rel=0.02)
