"""Training of the learned rewards of scenes: what they see, whom they please, and how well.

Neither sees a held-out prompt. The scenes are drawn by `sample_scene`, so that their prompts are known; the base
model's own samples come from the built-in pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, pad

from advantageflow.models import load_model
from advantageflow.models.base import FlowModel
from advantageflow.rollout import sample_batches
from advantageflow.run.progress import Bars
from advantageflow.seeding import Stream
from advantageflow.worlds.pretraining import train
from advantageflow.worlds.scenes.pretrain import corrupt
from advantageflow.worlds.scenes.prompts import TASKS, ScenePrompt, Wanted, parse_prompt, sample_scene, split_prompts
from advantageflow.worlds.scenes.rewards.clip import TwoTowers, load_clip, tokenize
from advantageflow.worlds.scenes.rewards.preference import PreferenceNetwork
from advantageflow.worlds.scenes.verifier import Detection, holds, verify
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS, RELATIONS, Scene, render

# The hidden taste: what each part of a picture's appeal weighs
TASTE = {"match": 2.0, "saturation": 1.5, "clean_edges": 2.0, "balance": 1.0, "clutter": -1.0}
SHARPNESS = 4.0  # of choices: log-odds per unit of appeal
FLIPPED = 0.1  # share of choices that are mistakes
PREFERENCE_PROMPTS = 1200
DRAWN_BY_BASE, DRAWN_BY_RULE = 4, 6  # pictures of each prompt
PREFERENCE_BATCH = 128  # pairs
SPECK = 12  # pixels that make an object
N = TypeVar("N", bound=nn.Module)
CLIP_PAIRS = 12_000  # of a scene and the same scene with one attribute changed
CLIP_BATCH = 128  # pairs
LATENT_NOISE = 0.4  # at most, of the autoencoder's latents, which have about unit spread


def true_prompts(scene: Scene) -> list[ScenePrompt]:
    """All prompts of the grammar that a scene of one to four objects fulfils."""
    shapes = [item.shape for item in scene]
    first = scene[0]
    if len(scene) == 1:
        return [
            ScenePrompt("single", (Wanted(first.shape),)),
            ScenePrompt("colors", (Wanted(first.shape, first.color),)),
        ]
    if len(set(shapes)) == 1:
        return [ScenePrompt("counting", (Wanted(first.shape, count=len(scene)),))]
    found = []
    for one, other in permutations(scene):
        plain = (Wanted(one.shape), Wanted(other.shape))
        found.append(ScenePrompt("two", plain))
        if one.color != other.color:
            colored = (Wanted(one.shape, one.color), Wanted(other.shape, other.color))
            found.append(ScenePrompt("binding", colored))
        boxes = [Detection(s.shape, s.color, s.x, s.y, round(2 * s.radius), round(2 * s.radius)) for s in (one, other)]
        found += [ScenePrompt("position", plain, relation) for relation in RELATIONS if holds(relation, *boxes)]
    return found


def draw_prompt(split: str, rng: np.random.Generator) -> ScenePrompt:
    """A prompt of a uniformly drawn task of one split ("train" or "held_out")."""
    prompts = split_prompts(split)[TASKS[rng.integers(len(TASKS))]]
    return prompts[rng.integers(len(prompts))]


def draw_pair(split: str, rng: np.random.Generator) -> tuple[ScenePrompt, ScenePrompt]:
    """A prompt and the same with one attribute changed, both of one split."""
    members = {prompt.text for prompts in split_prompts(split).values() for prompt in prompts}
    while True:
        prompt = draw_prompt(split, rng)
        wrong = corrupt(prompt, rng)
        if wrong.text in members:
            return prompt, wrong


def as_images(pixels: np.ndarray) -> Tensor:
    """uint8 [batch, 64, 64, 3] -> float32 [batch, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def round_trip(model: FlowModel, images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images through the built-in autoencoder, with up to LATENT_NOISE of noise between: what a sampler may draw."""
    latents = model.pipeline.vae.encode(2 * images - 1).latent_dist.mode()
    amount = torch.from_numpy(rng.uniform(0, LATENT_NOISE, (len(images), 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(latents.shape)).float()
    decoded: Tensor = model.pipeline.vae.decode(latents + amount * noise).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift by up to 3 pixels, blur half of the images, change the brightness, add noise; all keep the prompt true."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(images), 1, 1, 1))).float()

    size = images.shape[-1]
    framed = pad(images, (3, 3, 3, 3), mode="replicate")
    corners = rng.integers(0, 7, (len(images), 2))
    moved = torch.stack([f[:, y : y + size, x : x + size] for f, (y, x) in zip(framed, corners, strict=True)])
    blurred = avg_pool2d(moved, 3, 1, 1, count_include_pad=False)
    moved = moved.lerp(blurred, uniform(-1, 1).clamp(min=0))
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return (moved * uniform(0.85, 1.15) + uniform(0, 0.06) * noise).clamp(0, 1)


@dataclass(frozen=True)
class CaptionedScenes:
    """Pairs of scenes that differ in one attribute.

    images: uint8 [pairs, 2, 64, 64, 3]; captions: indices into `texts`, [pairs, 2]; true: whether a text is true of a
    scene, bool [pairs, 2, texts].
    """

    images: np.ndarray
    captions: np.ndarray
    true: np.ndarray
    texts: list[str]


def captioned_scenes(model: FlowModel, num_pairs: int, seed: int, bars: Bars) -> CaptionedScenes:
    """Draw training scenes; every second pair has gone through the autoencoder."""
    rng = np.random.default_rng([seed, 1])
    texts = [prompt.text for prompts in split_prompts("train").values() for prompt in prompts]
    index = {text: i for i, text in enumerate(texts)}
    images = np.empty((num_pairs, 2, 64, 64, 3), np.uint8)
    captions = np.empty((num_pairs, 2), np.int64)
    true = np.zeros((num_pairs, 2, len(texts)), bool)
    task = bars.add("drawing scenes", num_pairs)
    for pair in range(num_pairs):
        for which, prompt in enumerate(draw_pair("train", rng)):
            scene = sample_scene(prompt, rng)
            images[pair, which] = render(scene)
            captions[pair, which] = index[prompt.text]
            true[pair, which, [index[other.text] for other in true_prompts(scene) if other.text in index]] = True
        if pair % 2:
            decoded = round_trip(model, as_images(images[pair]), rng)
            images[pair] = (255 * decoded).round().byte().permute(0, 2, 3, 1).numpy()
        bars.advance(task)
    return CaptionedScenes(images, captions, true, texts)


def contrastive_loss(similarity: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over scaled similarities [batch, batch], images by texts.

    `true` says, [batch, batch], which texts are true of which images; those off the diagonal are left out, since they
    are no mistakes.
    """
    others = true & ~torch.eye(len(true), dtype=torch.bool)
    logits = similarity.masked_fill(others, -torch.inf)
    labels = torch.arange(len(true))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def fresh(build: type[N], seed: int) -> N:
    """A network with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train_clip(output: Path, *, steps: int = 600, seed: int = 0) -> None:
    """Train the image-text score of scenes and save it as `output`/clip.safetensors.

    A batch has pairs of scenes that differ in one attribute, each scene with its caption: so the text that is almost
    right is always among the wrong ones. Run again with the same arguments, it continues from its last checkpoint in
    `output`. Minutes on one CPU thread.
    """
    output.mkdir(parents=True, exist_ok=True)
    towers = fresh(TwoTowers, seed)
    with Bars() as bars:
        pairs = min(CLIP_PAIRS, steps * CLIP_BATCH)
        scenes = captioned_scenes(load_model("scenes"), pairs, seed, bars)
        words = tokenize(scenes.texts)

        def loss_of(rng: np.random.Generator, step: int) -> Tensor:
            chosen = rng.integers(pairs, size=CLIP_BATCH)
            captions = scenes.captions[chosen].ravel()
            images = augment(as_images(scenes.images[chosen].reshape(-1, 64, 64, 3)), rng)
            similarity = towers.embed_images(images) @ towers.embed_texts(words[captions]).T
            true = scenes.true[chosen].reshape(len(captions), -1)[:, captions]
            return contrastive_loss(towers.log_scale.exp().clamp(max=100) * similarity, torch.from_numpy(true))

        train(
            "clip",
            {"towers": towers},
            loss_of,
            num_steps=steps,
            learning_rate=2e-3,
            ema_decay=0.99,
            directory=output,
            seed=seed,
            bars=bars,
        )
    save_weights(towers, output / "clip.safetensors")


def appeal(image: np.ndarray, prompt: str) -> float:
    """The hidden taste: how much an image, uint8 [64, 64, 3], pleases, about -1 to 6.

    It likes what matches the prompt, saturated colours, clean edges (few pixels between the colours), a composition
    whose centre of mass is the image's, and no clutter (specks, and objects beyond those asked for).
    """
    pixels = image.astype(np.float64)
    colors = np.array([BACKGROUND, *COLORS.values()], dtype=np.float64)
    from_ground = np.linalg.norm(pixels - colors[0], axis=-1)
    shown = from_ground > 40
    if shown.sum() < SPECK:
        return -1.0
    brightest, darkest = pixels.max(-1)[shown], pixels.min(-1)[shown]
    between = np.linalg.norm(pixels[:, :, None] - colors, axis=-1).min(-1)[shown] > 60
    rows, columns = np.nonzero(shown)
    off_center = np.hypot(rows.mean() - 31.5, columns.mean() - 31.5) / 32
    regions, count = ndimage.label(shown)
    specks = int((np.bincount(regions.ravel(), minlength=count + 1)[1:] < SPECK).sum())
    wanted = sum(item.count for item in parse_prompt(prompt).wanted)
    parts = {
        "match": verify(image[None], [prompt])[0].graded,
        "saturation": float(((brightest - darkest) / np.maximum(brightest, 1)).mean()),
        "clean_edges": 1 - float(np.clip(between.mean() / 0.4, 0, 1)),
        "balance": 1 - float(off_center),
        "clutter": 0.2 * min(specks, 5) + 0.5 * max(0, count - specks - wanted),
    }
    return float(sum(TASTE[name] * value for name, value in parts.items()))


def spoil(prompt: ScenePrompt, rng: np.random.Generator) -> np.ndarray:
    """A picture for a prompt with some flaws, uint8 [64, 64, 3]: wrong, crowded, off balance, pale, soft or noisy."""
    scene = sample_scene(corrupt(prompt, rng) if rng.random() < 0.4 else prompt, rng)
    if rng.random() < 0.25:
        scene += sample_scene(draw_prompt("train", rng), rng)[:1]
    elif len(scene) > 1 and rng.random() < 0.2:
        scene = scene[1:]
    if rng.random() < 0.3:
        dx, dy = rng.uniform(-10, 10, 2)
        scene = tuple(replace(item, x=item.x + dx, y=item.y + dy) for item in scene)
    image = render(scene).astype(np.float64)
    if rng.random() < 0.4:
        image += rng.uniform(0.2, 0.8) * (image.mean(-1, keepdims=True) - image)
    if rng.random() < 0.4:
        image = ndimage.gaussian_filter(image, (rng.uniform(0.5, 2), rng.uniform(0.5, 2), 0))
    if rng.random() < 0.3:
        specks = rng.random(image.shape[:2]) < rng.uniform(0.001, 0.01)
        image[specks] = rng.uniform(0, 255, (int(specks.sum()), 3))
    if rng.random() < 0.3:
        image += rng.normal(0, rng.uniform(2, 20), image.shape)
    spoilt: np.ndarray = np.rint(image.clip(0, 255)).astype(np.uint8)
    return spoilt


@dataclass(frozen=True)
class JudgedPictures:
    """Pictures of prompts: images uint8 [prompts, pictures, 64, 64, 3], appeal float64 [prompts, pictures]."""

    images: np.ndarray
    appeal: np.ndarray
    texts: list[str]


def judged_pictures(model: FlowModel, split: str, num_prompts: int, seed: int, bars: Bars) -> JudgedPictures:
    """Pictures of random prompts: the first DRAWN_BY_BASE of each by the base model, the others by rule."""
    rng = np.random.default_rng([seed, 2])
    prompts = [draw_prompt(split, rng) for _ in range(num_prompts)]
    texts = [prompt.text for prompt in prompts]
    task = bars.add("drawing pictures", num_prompts * DRAWN_BY_BASE)
    drawn = []
    for _, batch in sample_batches(
        model,
        model.transformer,
        [text for text in texts for _ in range(DRAWN_BY_BASE)],
        stream=Stream.ROLLOUT,
        address=(seed,),
        num_inference_steps=10,
        solver="euler",
        batch_size=192,
    ):
        pictures = (255 * model.decode(batch.x0)).round().byte().permute(0, 2, 3, 1)
        drawn.append(pictures.numpy())
        bars.advance(task, len(pictures))
    by_base = np.concatenate(drawn).reshape(num_prompts, DRAWN_BY_BASE, 64, 64, 3)
    by_rule = np.stack([np.stack([spoil(prompt, rng) for _ in range(DRAWN_BY_RULE)]) for prompt in prompts])
    images = np.concatenate([by_base, by_rule], 1)
    liked = [[appeal(image, text) for image in group] for group, text in zip(images, texts, strict=True)]
    return JudgedPictures(images, np.array(liked), texts)


def choices(difference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether the first of two is chosen, bool: by appeal (Bradley and Terry, 1952), with mistakes."""
    chosen = rng.random(difference.shape) < 1 / (1 + np.exp(-SHARPNESS * difference))
    mistaken: np.ndarray = chosen ^ (rng.random(difference.shape) < FLIPPED)
    return mistaken


def train_preference(output: Path, *, steps: int = 500, seed: int = 0) -> None:
    """Train the preference score of scenes and save it as `output`/preference.safetensors.

    It starts from the shipped image-text towers, as PickScore and HPS start from CLIP, and learns from choices between
    two pictures of one prompt, by the base model or drawn with flaws. Run again with the same arguments, it continues
    from its last checkpoint in `output`. Minutes on one CPU thread.
    """
    output.mkdir(parents=True, exist_ok=True)
    network = fresh(PreferenceNetwork, seed)
    towers = load_clip()
    network.image.load_state_dict(towers.image.state_dict())
    network.text.load_state_dict(towers.text.state_dict())
    with Bars() as bars:
        pictures = judged_pictures(load_model("scenes"), "train", min(PREFERENCE_PROMPTS, 8 * steps), seed, bars)
        words = tokenize(pictures.texts)

        def loss_of(rng: np.random.Generator, step: int) -> Tensor:
            which = rng.integers(len(words), size=PREFERENCE_BATCH)
            pair = np.stack([rng.permutation(DRAWN_BY_BASE + DRAWN_BY_RULE)[:2] for _ in which])
            liked = np.take_along_axis(pictures.appeal[which], pair, 1)
            first = torch.from_numpy(choices(liked[:, 0] - liked[:, 1], rng))
            images = as_images(pictures.images[which[:, None], pair].reshape(-1, 64, 64, 3))
            utility = network.utility(images, words[which].repeat_interleave(2, 0)).unflatten(0, (-1, 2))
            return binary_cross_entropy_with_logits(utility[:, 0] - utility[:, 1], first.float())

        train(
            "preference",
            {"network": network},
            loss_of,
            num_steps=steps,
            learning_rate=1e-3,
            ema_decay=0.99,
            directory=output,
            seed=seed,
            bars=bars,
        )
        with torch.no_grad():
            by_base = as_images(pictures.images[:, :DRAWN_BY_BASE].reshape(-1, 64, 64, 3))
            found = network.utility(by_base, words.repeat_interleave(DRAWN_BY_BASE, 0))
        network.mean.copy_(found.mean())
        network.spread.copy_(found.std())
    save_weights(network, output / "preference.safetensors")


def save_weights(network: nn.Module, file: Path) -> None:
    """Save for shipping, in half precision."""
    save_file({name: value.detach().half().contiguous() for name, value in network.state_dict().items()}, file)
