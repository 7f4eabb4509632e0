"""The built-in average velocity of scenes: u(x_t, t, r) (MeanFlow, arXiv 2505.13447), learned from the built-in model.

The built-in model draws pictures in many small steps of Euler's method. Between any two times of such a path the
average velocity is known, without an error of its own: an adapter and the weights of the second time learn to tell it
from the path's state at the first one. What it says at two times that lie close together must also differ as it should,
since methods of average velocities take its slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from advantageflow.flow import like, shift_t
from advantageflow.models import load_model
from advantageflow.models.base import FlowModel
from advantageflow.models.mean_flow import MeanFlowTransformer, save_mean_flow
from advantageflow.run.progress import Bars
from advantageflow.worlds.pretraining import train
from advantageflow.worlds.scenes.pretrain import sample_prompt

BASE = "scenes"
STEPS = 16  # of a path
BATCH = 32  # spans, each of which is looked at from two times
RANK = 8
TARGETS = [
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")),
    *("ff.net.0.proj", "ff.net.2", "norm1.linear", "norm_out.linear"),
    *("timestep_embedder.linear_1", "timestep_embedder.linear_2"),
]
AT_NOISE, AT_IMAGE, NO_SPAN = 0.15, 0.15, 0.25  # shares of spans that begin at noise, end at the image, have no length
APART = 0.01  # between the two times
SLOPE_WEIGHT = 0.01
SHORTEST = 1e-3  # a span over which a velocity is taken


@dataclass(frozen=True)
class Paths:
    """How the built-in model drew pictures.

    prompts: of each; t: [STEPS + 1], from 1 to 0; noise: [paths, ...]; v: the velocity of each step, float16 [paths,
    STEPS, ...].
    """

    prompts: list[str]
    t: Tensor
    noise: Tensor
    v: Tensor

    def state(self, paths: Tensor, t: Tensor) -> Tensor:
        """Of paths [batch] at times [batch], [batch, ...]: they are straight within a step."""
        walked = (self.t[:-1] - t[:, None].maximum(self.t[1:])).clamp(min=0)
        return self.noise[paths] - torch.einsum("bs,bs...->b...", walked, self.v[paths].float())

    def average(self, paths: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """The average velocity between times [batch], [batch, ...]; the velocity of the step where they are one."""
        until = until.minimum(t - SHORTEST)
        return (self.state(paths, t) - self.state(paths, until)) / like(t - until, self.noise)


@torch.no_grad()
def draw_paths(model: FlowModel, count: int, seed: int, bars: Bars) -> Paths:
    """Paths of random prompts."""
    rng, generator = np.random.default_rng([seed, 2]), torch.Generator().manual_seed(seed)
    prompts = [sample_prompt(rng).text for _ in range(count)]
    noise = torch.randn(count, *model.latent_shape, generator=generator)
    t = shift_t(torch.linspace(1, 0, STEPS + 1), model.pipeline.scheduler.config.shift)
    velocities = torch.empty(count, STEPS, *model.latent_shape, dtype=torch.float16)
    task = bars.add("drawing paths", count)
    for part in torch.arange(count).split(128):
        x, told = noise[part], model.encode([prompts[i] for i in part])
        for step in range(STEPS):
            velocities[part, step] = model.velocity(model.transformer, x, t[step], told).half()
            x = x + (t[step + 1] - t[step]) * velocities[part, step].float()
        bars.update(task, done=int(part[-1]) + 1)
    return Paths(prompts, t, noise, velocities)


def draw_spans(rng: np.random.Generator, shift: float) -> tuple[Tensor, Tensor]:
    """Where random spans begin and end, [BATCH] each, as dense as the sampler's times."""
    begin, end = np.sort(rng.random((2, BATCH)), 0)[::-1]
    begin, end = np.where(rng.random(BATCH) < AT_NOISE, 1, begin), np.where(rng.random(BATCH) < AT_IMAGE, 0, end)
    t, until = (shift_t(torch.from_numpy(each).float(), shift) for each in (begin, end))
    t = t.clamp(min=2 * APART)
    return t, torch.where(torch.from_numpy(rng.random(BATCH)) < NO_SPAN, t, until.minimum(t - APART))


def distill(output: Path, *, steps: int = 1500, paths: int = 2048, seed: int = 0) -> None:
    """Learn the average velocity of the built-in model, and save it in `output`/model.

    Run again with the same arguments, it continues from its last checkpoint in `output`.
    """
    output.mkdir(parents=True, exist_ok=True)
    model = load_model(BASE)
    transformer = MeanFlowTransformer.of(model.transformer).requires_grad_(False)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian")
    transformer.add_adapter(config)
    span = transformer.time_text_embed.span.weight.requires_grad_()
    learned = nn.ParameterList(weight for weight in transformer.parameters() if weight.requires_grad)
    with Bars() as bars:
        known = draw_paths(model, paths, seed, bars)

        def loss_of(rng: np.random.Generator, step: int) -> Tensor:
            chosen = torch.from_numpy(rng.integers(paths, size=BATCH)).repeat(2)
            t, until = draw_spans(rng, model.pipeline.scheduler.config.shift)
            moves = (until == t).float()  # the end of a span without length follows its beginning
            t, until = torch.cat([t, t - APART]), torch.cat([until, until - APART * moves])
            told = model.encode([known.prompts[i] for i in chosen])
            times = 1000 * torch.stack([t, t - until], 1)
            found = transformer(known.state(chosen, t), told.tokens, told.pooled, times, return_dict=False)[0]
            error = found - known.average(chosen, t, until)
            first, second = error.chunk(2)
            slope = like((t - until)[:BATCH] / APART, first) * (first - second)
            loss: Tensor = error.square().mean() + SLOPE_WEIGHT * slope.square().mean()
            return loss

        train(
            "average velocity",
            {"learned": learned},
            loss_of,
            num_steps=steps,
            learning_rate=4e-3,
            ema_decay=0.99,
            directory=output,
            seed=seed,
            bars=bars,
        )
    save_mean_flow(output / "model", BASE, get_peft_model_state_dict(transformer), span)
