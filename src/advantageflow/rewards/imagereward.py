"""ImageReward (Xu et al., 2023): BLIP with a small head, fine-tuned on human rankings.

The official package does not install beside current transformers, so its weights go into transformers' BLIP.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipTextModel, BlipVisionModel

from advantageflow.rewards.clip import prepare_as_pictures, prepare_smoothly
from advantageflow.rewards.hub import file_from_hub, from_hub, read_weights, reward_device

REPOSITORY, FILE = "THUDM/ImageReward", "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # the official standardization of raw scores
MAX_TEXT_TOKENS = 35
# Names in the official vision transformer -> in transformers' `BlipVisionModel`
VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def official_config() -> BlipConfig:
    """ViT-L/16 at 224 pixels and a BERT-base text encoder that attends to the image."""
    return BlipConfig(
        text_config={"encoder_hidden_size": 1024, "projection_dim": 768},
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
        },
    )


class ImageRewardModel(nn.Module):
    """Image and prompt -> one number, through the first token of the text encoder."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.vision_model: Any = BlipVisionModel(config.vision_config)
        self.text_encoder: Any = BlipTextModel(config.text_config, add_pooling_layer=False)
        sizes = (config.text_config.hidden_size, 1024, 128, 64, 16, 1)
        self.head = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(sizes)))

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pixels [batch, 3, size, size], tokens and mask [batch, length] -> raw scores [batch]."""
        seen = self.vision_model(pixel_values=pixels).last_hidden_state
        told = self.text_encoder(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        score: Tensor = self.head(told[:, 0]).flatten()
        return score


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict under the names of `ImageRewardModel`."""
    converted = {}
    for name, tensor in state.items():
        if name.startswith("mlp.layers."):
            _, _, index, kind = name.split(".")
            place = (0, 2, 4, 6, 7).index(int(index))  # dropouts sit between the linear layers there
            converted[f"head.{place}.{kind}"] = tensor
        elif name.startswith("blip.text_encoder."):
            converted[name.removeprefix("blip.")] = tensor
        elif name.startswith("blip.visual_encoder.blocks."):
            layer, _, rest = name.removeprefix("blip.visual_encoder.blocks.").partition(".")
            module, _, kind = rest.rpartition(".")
            converted[f"vision_model.encoder.layers.{layer}.{BLOCK[module]}.{kind}"] = tensor
        elif name.startswith("blip.visual_encoder."):
            rest = name.removeprefix("blip.visual_encoder.")
            module, _, kind = rest.rpartition(".")
            converted["vision_model." + (VISION[rest] if rest in VISION else f"{VISION[module]}.{kind}")] = tensor
        # what else the file holds belongs to BLIP's pre-training
    return {name: tensor for name, tensor in converted.items() if not name.endswith("position_ids")}


class ImageReward:
    """A standardized preference score, about -2 to 2. Images go in as 8-bit pictures, prompts are cut at 35 tokens."""

    def __init__(self, model: ImageRewardModel | None = None, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer or from_hub(BertTokenizer, TOKENIZER)
        if model is None:
            model = ImageRewardModel(official_config())
            model.load_state_dict(to_transformers(read_weights(file_from_hub(REPOSITORY, FILE))))
        self.model = model.requires_grad_(False).eval().to(reward_device())

        self._weight: Tensor = next(self.model.parameters())  # tells device and precision
        self._size: int = self.model.vision_model.config.image_size

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        return self._score(prepare_as_pictures(images, self._size), prompts).cpu()

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same but for rounding to 8 bits, differentiable with respect to the images; on the reward's device."""
        return self._score(prepare_smoothly(images.to(self._weight), self._size), prompts)

    def _score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=MAX_TEXT_TOKENS, return_tensors="pt"
        )
        told = (tokens[name].to(self._weight.device) for name in ("input_ids", "attention_mask"))
        raw: Tensor = self.model(pixels.to(self._weight), *told)
        return (raw - MEAN) / STD
