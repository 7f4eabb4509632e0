"""CLIPScore as arXiv 2509.16117 and 2505.05470 compute it: the plain cosine under OpenAI's CLIP ViT-L/14.

Hessel et al. (2021), who named it, publish 2.5 · max(cosine, 0).
"""

from __future__ import annotations

from torch import Tensor

from advantageflow.rewards import CLIP_L
from advantageflow.rewards.clip import Clip, prepare_as_tensor


class CLIPScore:
    """The cosine of image and prompt, about 0.25 to 0.32. Images keep their floats; prompts are cut at 77 tokens."""

    def __init__(self, clip: Clip | None = None) -> None:
        self.clip = clip or Clip.load(CLIP_L)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        return self.with_gradient(images, prompts).cpu()

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same, differentiable with respect to the images; on the reward's device."""
        return self.clip.cosine(prepare_as_tensor(self.clip.take(images), self.clip.image_size), prompts)
