"""LAION's aesthetic predictor V2 (Schuhmann, 2022): a small head on the image embedding of CLIP ViT-L/14."""

from __future__ import annotations

from torch import Tensor, nn

from advantageflow.rewards import CLIP_L
from advantageflow.rewards.clip import Clip, prepare_as_pictures, prepare_smoothly
from advantageflow.rewards.hub import file_from_hub, read_weights

REPOSITORY, FILE = "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"


def build_head(width: int = 768) -> nn.Sequential:
    """Linear layers with dropout between them, and no non-linearity; the official training code has none either."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


class Aesthetic:
    """A rating of the image alone, about 4 to 7 (trained on ratings from 1 to 10). The prompt does not matter."""

    def __init__(self, clip: Clip | None = None, head: nn.Sequential | None = None) -> None:
        self.clip = clip or Clip.load(CLIP_L)
        if head is None:
            head = build_head()
            state = read_weights(file_from_hub(REPOSITORY, FILE))
            head.load_state_dict({name.removeprefix("layers."): weight for name, weight in state.items()})
        self.head = head.requires_grad_(False).eval().to(self.clip.model.device)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        return self._score(prepare_as_pictures(images, self.clip.image_size)).cpu()

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same but for rounding to 8 bits, differentiable with respect to the images; on the reward's device."""
        return self._score(prepare_smoothly(self.clip.take(images), self.clip.image_size))

    def _score(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.head(self.clip.embed_images(pixels))
        return scores.flatten()
