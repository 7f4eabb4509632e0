"""PickScore (Kirstain et al., 2023): a CLIP ViT-H/14 fine-tuned on users' choices between two images."""

from __future__ import annotations

from torch import Tensor

from advantageflow.rewards import VIT_H_TOKENIZER
from advantageflow.rewards.clip import Clip, prepare_as_pictures, prepare_smoothly

WEIGHTS = "yuvalkirstain/PickScore_v1"


class PickScore:
    """exp(logit_scale) · cosine / 26, about 0.8 to 0.9 for photo-like images (published scores are 26 times that).

    Images go in as 8-bit pictures, prompts are cut at 77 tokens, as in the code of arXiv 2509.16117 and 2505.05470.
    """

    def __init__(self, clip: Clip | None = None) -> None:
        self.clip = clip or Clip.load(WEIGHTS, VIT_H_TOKENIZER)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        return self._score(prepare_as_pictures(images, self.clip.image_size), prompts).cpu()

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same but for rounding to 8 bits, differentiable with respect to the images; on the reward's device."""
        return self._score(prepare_smoothly(self.clip.take(images), self.clip.image_size), prompts)

    def _score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        scale: float = self.clip.model.logit_scale.exp().item()
        return scale * self.clip.cosine(pixels, prompts) / 26
