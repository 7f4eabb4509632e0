"""HPSv2.1 (Wu et al., 2023): a CLIP ViT-H/14 fine-tuned on human preferences."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from advantageflow.rewards import VIT_H_TOKENIZER
from advantageflow.rewards.clip import Clip, prepare_padded
from advantageflow.rewards.hub import file_from_hub, from_hub, read_weights
from advantageflow.rewards.open_clip import load_into, vit_h_14_config

REPOSITORY, FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"


class HPSv2:
    """The cosine of image and prompt, about 0.2 to 0.4. Images are not rounded to 8 bits, as in the official code."""

    def __init__(self, clip: Clip | None = None) -> None:
        self.clip = clip or self._load()

    @staticmethod
    def _load() -> Clip:
        weights = read_weights(file_from_hub(REPOSITORY, FILE))
        with torch.device("meta"):
            model = CLIPModel(vit_h_14_config())
        model = model.to_empty(device="cpu")
        load_into(model, weights)
        return Clip(model.float(), from_hub(CLIPTokenizer, VIT_H_TOKENIZER))

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        return self.with_gradient(images, prompts).cpu()

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same, differentiable with respect to the images; on the reward's device."""
        return self.clip.cosine(prepare_padded(self.clip.take(images), self.clip.image_size), prompts)
