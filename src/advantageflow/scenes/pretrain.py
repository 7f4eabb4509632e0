"""Pre-training of the built-in model: an autoencoder of scenes, then a rectified flow over its latents.

The flow first learns from right captions. In the last part of its training, `CORRUPTED_CAPTIONS` of them name one
attribute wrongly. So the base draws well and obeys badly: its mistakes are good pictures of the wrong thing, modes that
reinforcement learning can re-weight. (Wrong captions from the start cost twice the images for the same drawing.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from rich.progress import Progress

from advantageflow.checkpoint import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from advantageflow.flow import interpolate, shift_t
from advantageflow.scenes.model import build_pipeline
from advantageflow.scenes.prompts import NUMBERS, TASKS, ScenePrompt, Wanted, sample_scene, task_prompts
from advantageflow.scenes.world import COLORS, RELATIONS, SHAPES, render

CORRUPTED_CAPTIONS = 0.5
CORRUPTED_FROM = 0.7  # share of the training before the first wrong caption
EMPTY_CAPTIONS = 0.1  # for classifier-free guidance
AUTOENCODER_BATCH = 32
FLOW_BATCH = 128
# A call of the pipeline without T5 appends this many zero tokens, unless told otherwise. A few late batches have them
# too, so that the model still draws when it is called with diffusers' defaults.
DEFAULT_ZERO_TOKENS = 256
CHECKPOINT_SECONDS = 240


def sample_prompt(rng: np.random.Generator) -> ScenePrompt:
    """A prompt of a uniformly drawn task."""
    prompts = task_prompts(TASKS[rng.integers(len(TASKS))])
    return prompts[rng.integers(len(prompts))]


def corrupt(prompt: ScenePrompt, rng: np.random.Generator) -> ScenePrompt:
    """Change one attribute that the prompt names: a shape, a colour, the count, the relation, or swap the colours."""
    first = prompt.wanted[0]
    used = {item.shape for item in prompt.wanted}
    changes = ["shape"]
    if prompt.task == "counting":
        changes += ["count", "count"]
    if prompt.task in ("colors", "binding"):
        changes += ["color", "color"]
    if prompt.task == "binding":
        changes.append("swap")
    if prompt.relation:
        changes += ["relation", "relation"]
    change = changes[rng.integers(len(changes))]
    if change == "relation":
        others = [relation for relation in RELATIONS if relation != prompt.relation]
        return replace(prompt, relation=others[rng.integers(len(others))])
    if change == "count":
        counts = [count for count in NUMBERS.values() if count != first.count]
        return replace(prompt, wanted=(replace(first, count=counts[rng.integers(len(counts))]),))
    if change == "swap":
        one, other = prompt.wanted
        return replace(prompt, wanted=(replace(one, color=other.color), replace(other, color=one.color)))
    index = int(rng.integers(len(prompt.wanted)))
    item = prompt.wanted[index]
    if change == "color":
        taken = {wanted.color for wanted in prompt.wanted}
        colors = [color for color in COLORS if color not in taken]
        changed: Wanted = replace(item, color=colors[rng.integers(len(colors))])
    else:
        shapes = [shape for shape in SHAPES if shape not in used]
        changed = replace(item, shape=shapes[rng.integers(len(shapes))])
    return replace(prompt, wanted=(*prompt.wanted[:index], changed, *prompt.wanted[index + 1 :]))


def caption(prompt: ScenePrompt, rng: np.random.Generator, corrupted: float = CORRUPTED_CAPTIONS) -> str:
    """The text that a scene is learned with: none, a wrong one, or the right one."""
    draw = rng.random()
    if draw < EMPTY_CAPTIONS:
        return ""
    if draw < EMPTY_CAPTIONS + (1 - EMPTY_CAPTIONS) * corrupted:
        return corrupt(prompt, rng).text
    return prompt.text


def scene_batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, list[ScenePrompt]]:
    """Random scenes as images in [-1, 1], float32 [size, 3, 64, 64], with the prompts they fulfil."""
    prompts = [sample_prompt(rng) for _ in range(size)]
    images = np.stack([render(sample_scene(prompt, rng)) for prompt in prompts])
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
    progress: Progress,
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
    step = 0
    if saved.exists():
        tensors, record = load_state(saved)
        step = int(record["step"])
        for key, value in weights.items():
            value.data.copy_(tensors["weights"][key])
            average[key].copy_(tensors["average"][key])
        load_optimizer_tensors(optimizer, tensors["optimizer"])

    def save() -> None:
        groups = {"weights": dict(weights), "average": average, "optimizer": optimizer_tensors(optimizer)}
        save_state(saved, groups, {"step": step})

    task = progress.add_task(name, total=num_steps, completed=step)
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
        progress.update(task, completed=step, description=f"{name}: loss {np.mean(losses[-50:]):.4f}")
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"{name}: the loss is {losses[-1]} at step {step}; the last checkpoint is {saved}")
        if time.monotonic() - last_saved > CHECKPOINT_SECONDS or step == num_steps:
            save()
            last_saved = time.monotonic()
            progress.console.print(f"{name}: step {step} of {num_steps}, loss {np.mean(losses[-200:]):.4f}")
    for key, value in weights.items():
        value.data.copy_(average[key])


def train_autoencoder(
    pipeline: StableDiffusion3Pipeline, num_steps: int, directory: Path, seed: int, progress: Progress
) -> None:
    vae = pipeline.vae.to(memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
        images, _ = scene_batch(rng, AUTOENCODER_BATCH)
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
        progress=progress,
    )


@torch.no_grad()
def encode_scenes(
    pipeline: StableDiffusion3Pipeline, num_scenes: int, seed: int, progress: Progress
) -> tuple[torch.Tensor, list[ScenePrompt]]:
    """Latents of scenes, float16 [num_scenes, 16, 8, 8], and their prompts; sets the VAE's shift and scale."""
    rng = np.random.default_rng([seed, 1])
    latents: list[torch.Tensor] = []
    prompts: list[ScenePrompt] = []
    task = progress.add_task("encoding scenes", total=num_scenes)
    while len(prompts) < num_scenes:
        images, chosen = scene_batch(rng, min(256, num_scenes - len(prompts)))
        latents.append(pipeline.vae.encode(images).latent_dist.mode().half())
        prompts += chosen
        progress.update(task, completed=len(prompts))
    stacked = torch.cat(latents)
    shift, scale = stacked.float().mean().item(), 1 / stacked.float().std().item()
    pipeline.vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return ((stacked.float() - shift) * scale).half(), prompts


def train_flow(
    pipeline: StableDiffusion3Pipeline,
    latents: torch.Tensor,
    prompts: list[ScenePrompt],
    num_steps: int,
    directory: Path,
    seed: int,
    progress: Progress,
) -> None:
    modules = {
        "transformer": pipeline.transformer,
        "text_encoder": pipeline.text_encoder,
        "text_encoder_2": pipeline.text_encoder_2,
    }

    def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
        with_zero_tokens = step > 0.6 * num_steps and step % 8 == 0
        chosen = rng.integers(len(prompts), size=16 if with_zero_tokens else FLOW_BATCH)
        corrupted = CORRUPTED_CAPTIONS if step >= CORRUPTED_FROM * num_steps else 0.0
        captions = [caption(prompts[i], rng, corrupted) for i in chosen]
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
        progress=progress,
    )


def pretrain(
    output: Path,
    *,
    autoencoder_steps: int = 2500,
    flow_steps: int = 8000,
    num_scenes: int = 100_000,
    seed: int = 0,
) -> None:
    """Pre-train the built-in model and save it as a diffusers pipeline in `output`/pipeline.

    Run again with the same arguments, it continues from its last checkpoint in `output`.
    """
    output.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(seed)
    with Progress() as progress:
        train_autoencoder(pipeline, autoencoder_steps, output, seed, progress)
        latents, prompts = encode_scenes(pipeline, num_scenes, seed, progress)
        train_flow(pipeline, latents, prompts, flow_steps, output, seed, progress)
    save_pipeline(pipeline, output / "pipeline")


def save_pipeline(pipeline: StableDiffusion3Pipeline, directory: Path) -> None:
    """Save for shipping: the transformer, by far the largest part, in half precision."""
    pipeline.transformer.half()
    pipeline.save_pretrained(directory)
    pipeline.transformer.float()
