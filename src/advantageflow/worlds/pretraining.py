"""Pre-training of a built-in model: an autoencoder of a world's pictures, then a rectified flow over its latents.

The flow first learns from right captions. In the last part of its training, many of them are wrong in one attribute.
So the base draws well and obeys badly: its mistakes are good pictures of the wrong thing, modes that reinforcement
learning can re-weight. (Wrong captions from the start cost twice the images for the same drawing.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from advantageflow.flow import interpolate, shift_t
from advantageflow.models import hide_bars
from advantageflow.run.checkpoint import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from advantageflow.run.progress import Bars

EMPTY_CAPTIONS = 0.1  # for classifier-free guidance
AUTOENCODER_BATCH = 32
FLOW_BATCH = 128
# A call of the pipeline without T5 appends this many zero tokens, unless told otherwise. A few late batches have them
# too, so that the model still draws when it is called with diffusers' defaults.
DEFAULT_ZERO_TOKENS = 256
CHECKPOINT_SECONDS = 240


class Prompt(Protocol):
    @property
    def text(self) -> str:
        """What a user would write."""


P = TypeVar("P", bound=Prompt)


@dataclass(frozen=True)
class World(Generic[P]):
    """What a built-in model learns to draw.

    Args:
        sample: draws a prompt.
        render: draws a picture that fulfils a prompt, uint8 [64, 64, 3].
        corrupt: changes one attribute of a prompt.
        build_pipeline: the pipeline with fresh weights drawn from a seed.
        corrupted: share of wrong captions, once there are any.
        corrupted_from: share of the training before the first wrong caption.
    """

    sample: Callable[[np.random.Generator], P]
    render: Callable[[P, np.random.Generator], np.ndarray]
    corrupt: Callable[[P, np.random.Generator], P]
    build_pipeline: Callable[[int], StableDiffusion3Pipeline]
    corrupted: float = 0.5
    corrupted_from: float = 0.7

    def caption(self, prompt: P, rng: np.random.Generator, corrupted: float) -> str:
        """The text that a picture is learned with: none, a wrong one, or the right one."""
        draw = rng.random()
        if draw < EMPTY_CAPTIONS:
            return ""
        if draw < EMPTY_CAPTIONS + (1 - EMPTY_CAPTIONS) * corrupted:
            return self.corrupt(prompt, rng).text
        return prompt.text

    def batch(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, list[P]]:
        """Random pictures in [-1, 1], float32 [size, 3, 64, 64], with the prompts they fulfil."""
        prompts = [self.sample(rng) for _ in range(size)]
        images = np.stack([self.render(prompt, rng) for prompt in prompts])
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, prompts


def train(
    name: str,
    modules: dict[str, torch.nn.Module],
    loss_of: Callable[[np.random.Generator, int], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    ema_decay: float,
    directory: Path,
    seed: int,
    bars: Bars,
) -> None:
    """Minimise `loss_of(rng, step)` with AdamW, warm-up and cosine decay; resumes from `directory`; leaves EMA weights.

    The random numbers of a step depend on (seed, step) alone, so a resumed run draws what the first would have drawn.
    """
    weights: dict[str, torch.Tensor] = {
        f"{part}.{key}": value for part, module in modules.items() for key, value in module.named_parameters()
    }
    parameters = list(weights.values())
    average = {key: value.detach().clone() for key, value in weights.items()}
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    saved = directory / name
    step = _restore(saved, weights, average, optimizer) if saved.exists() else 0

    def save() -> None:
        groups = {"weights": dict(weights), "average": average, "optimizer": optimizer_tensors(optimizer)}
        save_state(saved, groups, {"step": step})

    task = bars.add(name, num_steps, step)
    last_saved = time.monotonic()
    losses: list[float] = []
    while step < num_steps:
        warmup = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of(np.random.default_rng([seed, step]), step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        step += 1
        decay = min(ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [value.data for value in parameters], 1 - decay)
        losses.append(loss.item())
        bars.update(task, done=step, name=f"{name}: loss {np.mean(losses[-50:]):.4f}")
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"{name}: the loss is {losses[-1]} at step {step}; the last checkpoint is {saved}")
        if time.monotonic() - last_saved > CHECKPOINT_SECONDS or step == num_steps:
            save()
            last_saved = time.monotonic()
            bars.say(f"{name}: saved step {step} of {num_steps}, loss {np.mean(losses[-200:]):.4f}")
    for key, value in weights.items():
        value.data.copy_(average[key])


def _restore(
    saved: Path, weights: dict[str, torch.Tensor], average: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Fill weights, average and optimizer from a checkpoint; returns the steps that it has taken."""
    tensors, record = load_state(saved)
    for key, value in weights.items():
        value.data.copy_(tensors["weights"][key])
        average[key].copy_(tensors["average"][key])
    load_optimizer_tensors(optimizer, tensors["optimizer"])
    return int(record["step"])


def train_autoencoder(
    world: World[P], pipeline: StableDiffusion3Pipeline, num_steps: int, directory: Path, seed: int, bars: Bars
) -> None:
    vae = pipeline.vae.to(memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
        images, _ = world.batch(rng, AUTOENCODER_BATCH)
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        restored = vae.decode(posterior.sample()).sample
        error: torch.Tensor = (restored - images).abs().mean() + (restored - images).square().mean()
        divergence: torch.Tensor = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return error + 1e-3 * divergence

    train(
        "autoencoder",
        {"vae": vae},
        loss_of,
        num_steps=num_steps,
        learning_rate=3e-3,
        ema_decay=0.995,
        directory=directory,
        seed=seed,
        bars=bars,
    )


@torch.no_grad()
def encode_pictures(
    world: World[P], pipeline: StableDiffusion3Pipeline, num_pictures: int, seed: int, bars: Bars
) -> tuple[torch.Tensor, list[P]]:
    """Latents of pictures, float16 [num_pictures, 16, 8, 8], and their prompts; sets the VAE's shift and scale."""
    rng = np.random.default_rng([seed, 1])
    latents: list[torch.Tensor] = []
    prompts: list[P] = []
    task = bars.add("encoding pictures", num_pictures)
    while len(prompts) < num_pictures:
        images, chosen = world.batch(rng, min(256, num_pictures - len(prompts)))
        latents.append(pipeline.vae.encode(images).latent_dist.mode().half())
        prompts += chosen
        bars.update(task, done=len(prompts))
    stacked = torch.cat(latents)
    shift, scale = stacked.float().mean().item(), 1 / stacked.float().std().item()
    pipeline.vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return ((stacked.float() - shift) * scale).half(), prompts


def train_flow(
    world: World[P],
    pipeline: StableDiffusion3Pipeline,
    latents: torch.Tensor,
    prompts: list[P],
    num_steps: int,
    directory: Path,
    seed: int,
    bars: Bars,
) -> None:
    modules = {
        "transformer": pipeline.transformer,
        "text_encoder": pipeline.text_encoder,
        "text_encoder_2": pipeline.text_encoder_2,
    }

    def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
        with_zero_tokens = step > 0.6 * num_steps and step % 8 == 0
        chosen = rng.integers(len(prompts), size=16 if with_zero_tokens else FLOW_BATCH)
        corrupted = world.corrupted if step >= world.corrupted_from * num_steps else 0.0
        captions = [world.caption(prompts[i], rng, corrupted) for i in chosen]
        embeds, _, pooled, _ = pipeline.encode_prompt(
            captions,
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=DEFAULT_ZERO_TOKENS if with_zero_tokens else 0,
        )
        x0 = latents[torch.from_numpy(chosen)].float()
        noise = torch.randn_like(x0)
        # as dense as the sampler's times: the autoencoder forgives noise, so little is decided at small t
        t = shift_t(torch.randn(len(x0)).sigmoid(), pipeline.scheduler.config.shift)
        x_t = interpolate(x0, noise, t)
        velocity: torch.Tensor = pipeline.transformer(x_t, embeds, pooled, 1000 * t, return_dict=False)[0]
        return (velocity - (noise - x0)).square().mean()

    train(
        "flow",
        modules,
        loss_of,
        num_steps=num_steps,
        learning_rate=1e-3,
        ema_decay=0.999,
        directory=directory,
        seed=seed,
        bars=bars,
    )


def pretrain(
    world: World[P],
    output: Path,
    *,
    autoencoder_steps: int = 2500,
    flow_steps: int = 8000,
    num_pictures: int = 100_000,
    seed: int = 0,
) -> None:
    """Pre-train a model of `world` and save it as a diffusers pipeline in `output`/pipeline.

    Run again with the same arguments, it continues from its last checkpoint in `output`.
    """
    output.mkdir(parents=True, exist_ok=True)
    pipeline = world.build_pipeline(seed)
    with Bars() as bars:
        train_autoencoder(world, pipeline, autoencoder_steps, output, seed, bars)
        latents, prompts = encode_pictures(world, pipeline, num_pictures, seed, bars)
        train_flow(world, pipeline, latents, prompts, flow_steps, output, seed, bars)
    save_pipeline(pipeline, output / "pipeline")


def save_pipeline(pipeline: StableDiffusion3Pipeline, directory: Path) -> None:
    """Save for shipping: the transformer and the autoencoder, by far the largest parts, in half precision."""
    hide_bars()
    parts = (pipeline.transformer, pipeline.vae)
    for part in parts:
        part.half()
    pipeline.save_pretrained(directory)
    for part in parts:
        part.float()
