"""A preference score that is learned from noisy choices between pictures, in the way of PickScore and HPS.

`training.train_preference` says whose choices these are. The score knows that taste only from examples.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from advantageflow.worlds.scenes.rewards.clip import EMBEDDING, ImageTower, LearnedReward, TextTower, load_network

PREFERENCE_WEIGHTS = Path(__file__).parent / "preference.safetensors"


class PreferenceNetwork(nn.Module):
    """The towers of `clip`, and a head that makes one number of an image and a text.

    `mean` and `spread` are those of the base model's pictures.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = TextTower()
        self.head = nn.Sequential(nn.Linear(3 * EMBEDDING, 128), nn.ReLU(), nn.Linear(128, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def utility(self, images: Tensor, words: Tensor) -> Tensor:
        """Images [batch, 3, 64, 64] in [0, 1], words [batch, MAX_WORDS] -> log-odds of being chosen."""
        image, text = self.image(images), self.text(words)
        likeness = EMBEDDING**0.5 * normalize(image, dim=-1) * normalize(text, dim=-1)
        found: Tensor = self.head(torch.cat([image, text, likeness], -1))[:, 0]
        return found

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """The score, [batch]: 0.5 for the base model's mean picture, 0.15 more for each standard deviation above."""
        return 0.5 + 0.15 * (self.utility(images, words) - self.mean) / self.spread


class ScenePreference(LearnedReward):
    """The reward `scenes_preference`: mostly between 0 and 1."""

    def __init__(self, file: Path = PREFERENCE_WEIGHTS) -> None:
        super().__init__(load_network(PreferenceNetwork(), file))
