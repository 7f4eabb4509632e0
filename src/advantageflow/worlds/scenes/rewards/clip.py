"""An image-text score that is learned, in the way of CLIPScore (Hessel et al., 2021), for the drawn world.

Two towers, an image CNN and a text transformer, map to one sphere; the score is their cosine. `training.train_clip`
says what they learn from. The score knows the world only from examples: unlike the verifier, it can be fooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from advantageflow.errors import shown
from advantageflow.worlds.scenes.model import scene_words
from advantageflow.worlds.scenes.world import IMAGE_SIZE

CLIP_WEIGHTS = Path(__file__).parent / "clip.safetensors"
EMBEDDING = 128
MAX_WORDS = 7  # of the longest prompt
SCORING_BATCH = 256
N = TypeVar("N", bound=nn.Module)


@lru_cache
def vocabulary() -> dict[str, int]:
    """The words of the grammar, numbered from 1; 0 is no word."""
    return {word: number for number, word in enumerate(sorted(scene_words()), start=1)}


def read_words(prompt: str) -> list[int]:
    """The numbers of a prompt's words, in any order that the words come in.

    Raises:
        ValueError: a word is not of the grammar, or there are none, or more than MAX_WORDS.
    """
    words = prompt.lower().split()
    unknown = [word for word in words if word not in vocabulary()]
    if unknown:
        raise ValueError(
            f"the learned rewards of scenes do not know {shown(unknown)[1:-1]} in the prompt {shown(prompt)}; "
            f"they know {', '.join(vocabulary())}"
        )
    if not 1 <= len(words) <= MAX_WORDS:
        raise ValueError(
            f"the learned rewards of scenes read 1 to {MAX_WORDS} words; the prompt {shown(prompt)} has {len(words)}"
        )
    return [vocabulary()[word] for word in words]


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Prompts as int64 [batch, MAX_WORDS], zeros after the last word; raises what `read_words` does."""
    return torch.tensor([(read_words(prompt) + MAX_WORDS * [0])[:MAX_WORDS] for prompt in prompts])


def check_images(images: Tensor, prompts: Sequence[str]) -> None:
    """Raise ValueError unless there is one image, [3, 64, 64], per prompt."""
    if images.shape != (len(prompts), 3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"expected images [{len(prompts)}, 3, {IMAGE_SIZE}, {IMAGE_SIZE}], one per prompt, got {list(images.shape)}"
        )


class ImageTower(nn.Sequential):
    """Images in [0, 1], [batch, 3, 64, 64] -> [batch, EMBEDDING]; sees where things are, since it pools nothing."""

    def __init__(self) -> None:
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for width_in, width in pairwise(widths):  # each halves the resolution: 64 -> 4
            layers += [nn.Conv2d(width_in, width, 5 if width_in == 3 else 3, 2, 2 if width_in == 3 else 1)]
            layers += [nn.GroupNorm(8, width), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * (IMAGE_SIZE // 16) ** 2, EMBEDDING))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = super().forward(2 * images - 1)  # type: ignore[no-untyped-call]
        return found


class TextTower(nn.Module):
    """Words [batch, MAX_WORDS] -> [batch, EMBEDDING]: a transformer of two layers, averaged over the words."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.words = nn.Embedding(len(vocabulary()) + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(MAX_WORDS, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, EMBEDDING))

    def forward(self, words: Tensor) -> Tensor:
        absent = words == 0
        x = self.words(words) + self.positions
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        present = (~absent)[..., None].float()
        found: Tensor = self.project((x * present).sum(1) / present.sum(1))
        return found


class TwoTowers(nn.Module):
    """Images and texts on one sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = TextTower()
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def embed_images(self, images: Tensor) -> Tensor:
        """Images [batch, 3, 64, 64] in [0, 1] -> unit vectors [batch, EMBEDDING]."""
        return normalize(self.image(images), dim=-1)

    def embed_texts(self, words: Tensor) -> Tensor:
        """Words [batch, MAX_WORDS] -> unit vectors [batch, EMBEDDING]."""
        return normalize(self.text(words), dim=-1)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """The cosine of each image and its text, [batch] in [-1, 1]."""
        return (self.embed_images(images) * self.embed_texts(words)).sum(-1)


def load_clip(file: Path = CLIP_WEIGHTS) -> TwoTowers:
    """The towers with the weights of a file."""
    return load_network(TwoTowers(), file)


def load_network(network: N, file: Path) -> N:
    """A network with the weights of a file, in full precision."""
    network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return network.eval()


class LearnedReward:
    """A reward by a network of images and words."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False)

    def check_prompt(self, prompt: str) -> None:
        """Raise ValueError if a word is unknown, or there are none, or too many."""
        read_words(prompt)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Score images [batch, 3, 64, 64] in [0, 1]; raises ValueError for another size or an unknown word."""
        check_images(images, prompts)
        batches = zip(images.split(SCORING_BATCH), tokenize(prompts).split(SCORING_BATCH), strict=True)
        return [score for batch in batches for score in self.network(*batch).tolist()]

    def with_gradient(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The same, [batch] on the CPU, differentiable with respect to the images."""
        check_images(images, prompts)
        weight = next(self.network.parameters())
        found: Tensor = self.network(images.to(weight), tokenize(prompts))
        return found


class SceneCLIP(LearnedReward):
    """The reward `scenes_clip`: the cosine of image and prompt, in [-1, 1]."""

    def __init__(self, file: Path = CLIP_WEIGHTS) -> None:
        super().__init__(load_clip(file))
