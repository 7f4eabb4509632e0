"""What a recipe will cost, told before anything is loaded: `advantageflow train RECIPE --plan`.

The figures are estimates from the sizes of known models; the assumptions are printed with them.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advantageflow.config import Config
from advantageflow.config_rules import check_path
from advantageflow.decay import Decay, decay_of
from advantageflow.errors import cut
from advantageflow.evaluated import described
from advantageflow.memory import (
    REWARDS,
    ModelFacts,
    automatic,
    facts_of,
    image_tokens,
    pixels,
    reward_weights,
    sized,
    stages,
    what_fits,
)
from advantageflow.models import BUILT_IN as BUILT_IN_MODELS
from advantageflow.models import CURVED, check_family, check_learned, picture_size
from advantageflow.models.architectures import ARCHITECTURES
from advantageflow.models.source import locate
from advantageflow.rewards import check_gradients, custom
from advantageflow.run.pace import images_after

# Teraflops a second that training reaches in half precision, and memory in GB: of the H100 measured with Stable
# Diffusion 3.5 Medium, of the others 40 % of their peak, which is assumed.
GPUS = {"H100": (240, 80), "A100": (125, 80), "4090": (65, 24)}
CPU_SHARE = 0.4  # of a matrix product's speed, measured with the built-in model
# The paper's settings, where it states them (arXiv 2605.26013, section 5)
PAPER: dict[str, Any] = {
    "model.path": "stabilityai/stable-diffusion-3.5-medium",
    "model.resolution": 512,
    "policy.lora_rank": 32,
    "policy.lora_alpha": 64,
    "rollout.prompts_per_iteration": 32,
    "rollout.images_per_prompt": 4,
    "rollout.num_inference_steps": 10,
    "rollout.guidance_scale": 1.0,
    "rollout.solver": "euler",
    "objective.reference_weight": 1e-3,
    "learn.t_distribution": "uniform",
    "learn.t_draws": 1,
    "evaluation.num_inference_steps": 40,
    "run.iterations": 1000,
}
UNSTATED = (
    "the decay of the rollout policy, learning rate and weight decay, gradient clipping: as in "
    "arXiv 2509.16117's code, since the paper states none"
)


@dataclass(frozen=True)
class Plan:
    """Per iteration: images, and calls of the transformer on one image; then the whole run."""

    images: int
    sampling_calls: int
    learning_calls: int
    gradient_calls: int
    memory_gb: dict[str, float]  # stage -> peak; empty where the model is not known
    fits: dict[str, list[str] | None]  # GPU -> the changes with which it fits; None where none do
    sizes: dict[str, list[str]]  # GPU -> about what batch sizes of "auto" come to
    flops: float | None
    downloads: dict[str, float]
    departures: list[str]

    @property
    def hours(self) -> dict[str, float]:
        """On each GPU; scoring is not counted."""
        return {} if self.flops is None else {name: self.hours_at(rate) for name, (rate, _) in GPUS.items()}

    def hours_at(self, rate: float) -> float:
        """At so many teraflops a second."""
        return (self.flops or 0.0) / (rate * 1e12) / 3600


def make_plan(config: Config) -> Plan:
    """Count and estimate; loads nothing."""
    rollout = config.rollout
    images = rollout.prompts_per_iteration * rollout.images_per_prompt
    sampling, learning = calls(config)
    gradient = learning["learner"]
    method = config.objective
    # that are decoded with gradient
    pictures = round(images * _cases_per_image(config)) * method.pictures() if method.family == "gradient" else 0
    others = sum(learning.values()) - gradient
    facts = facts_of(config)
    flops: float | None = None
    memory: dict[str, float] = {}
    on_gpu: dict[str, Config] = {}
    if facts:
        # a gradient costs two further passes, and one more where activations are computed again
        passes = sampling + others + gradient * (4 if config.model.gradient_checkpointing else 3)
        evaluated = evaluated_images(config)
        steps = config.evaluation.num_inference_steps * (2 if config.evaluation.guidance_scale != 1 else 1)
        flops = (passes * config.run.iterations + evaluated * steps) * forward_flops(facts, config)
        walked = config.walk_plan()
        probes = len(walked.probes) if walked else 0
        decoded = (images * (1 + rollout.drafted + probes) + 3 * pictures) * config.run.iterations + evaluated
        flops += decoded * pixels(config) * facts.decode_flops
        memory = stages(facts, config)
        on_gpu = {name: sized(facts, config, size) for name, (_, size) in GPUS.items()}
    return Plan(
        images=images,
        sampling_calls=sampling,
        learning_calls=gradient + others,
        gradient_calls=gradient,
        memory_gb=memory,
        fits={name: what_fits(facts, found, GPUS[name][1]) for name, found in on_gpu.items()} if facts else {},
        sizes={
            name: [f"{part}.batch_size={getattr(found, part).batch_size}" for part in automatic(config)]
            for name, found in on_gpu.items()
        },
        flops=flops,
        downloads=_downloads(config, facts),
        departures=departures(config),
    )


def calls(config: Config, iteration: int = 0) -> tuple[int, dict[str, int]]:
    """Images that an iteration has to put through the transformer: to draw its images, and to learn, by role.

    The learner's calls have a gradient. Guidance doubles a call.
    """
    rollout, method = config.rollout, config.objective
    images = rollout.prompts_per_iteration * rollout.images_per_prompt
    sampling = round(images * _calls_per_image(config, iteration)) * (2 if rollout.guidance_scale != 1 else 1)
    if rollout.source is not None:  # the images are there; each is encoded, which costs about as much as decoding
        sampling = 0
    roles = ("learner", *sorted(method.sees - _never_parted(config)))
    scales = dict.fromkeys(roles, rollout.guidance_scale) if method.family == "gradient" else method.guidance
    cases = round(images * _cases_per_image(config, iteration))
    learning = {role: cases * (2 if scales.get(role, 1.0) != 1 else 1) for role in roles}
    for role in roles:
        calls_of = method.calls if role == "learner" else method.calls_of_others
        learning[role] *= calls_of(rollout.num_inference_steps)
    if method.average_velocity:  # whose slope is taken between two times
        learning["rollout"] = learning.get("rollout", 0) + 2 * cases
    return sampling, learning


def _never_parted(config: Config) -> set[str]:
    """Slow copies that equal the learner in every optimizer step, whose predictions are then the learner's own."""
    if config.learn.optimizer_steps > 1:
        return set()
    decays = {
        "rollout": decay_of(config.policy.rollout_decay, config.policy.rollout_every),
        **config.objective.slow,
    }
    return {role for role, decay in decays.items() if decay == Decay() and role not in config.objective.guidance}


def _calls_per_image(config: Config, iteration: int = 0) -> float:
    """Calls of the transformer that an image's sampling takes; images of a tree share those before they part."""
    rollout, plan = config.rollout, config.walk_plan(iteration)
    steps = rollout.num_inference_steps
    if plan is None:
        return (steps + rollout.drafted * rollout.drafting_steps) * (2 if rollout.solver == "heun" else 1)
    probes = sum(len(way) - 1 for way in plan.probes)
    return probes + float(sum(1 / plan.leaves_after(step - 1) for step in range(steps)))


def _cases_per_image(config: Config, iteration: int = 0) -> float:
    """What is learned from an image, on average; images of a tree share the transitions before they part."""
    plan, draws = config.walk_plan(iteration), config.learn.t_draws
    size = config.rollout.images_per_prompt
    if plan is None or config.objective.family != "reverse":
        return float(draws * config.objective.taught(size) / size)
    return float(draws * sum(1 / plan.leaves_after(step) for step in plan.keep) / len(plan.keep))


def evaluated_images(config: Config) -> int:
    """Drawn in all evaluations of a run and for its pictures."""
    return images_after(config, 0, config.run.iterations, False)


def forward_flops(facts: ModelFacts, config: Config) -> float:
    """Of one image once through the transformer: a token of each stream passes that stream's weights; all attend."""
    image, text = image_tokens(config), facts.text_tokens
    passed = image * facts.image_weights + text * facts.text_weights
    layers = facts.layers if facts.attending is None else facts.attending
    attended = layers * (image + text) ** 2 + facts.second * image**2
    return 2e9 * passed + 4 * facts.width * attended


def _downloads(config: Config, facts: ModelFacts | None) -> dict[str, float]:
    found = {name: REWARDS[name] for name in reward_weights(config)}
    model = config.model
    if facts and model.path not in BUILT_IN_MODELS:
        transformer = facts.parameters * 2 if model.base is None else 0.0  # else it is in the file
        found = {model.base or model.path: transformer + facts.encoders + facts.vae, **found}
    return found


def departures(config: Config) -> list[str]:
    """Where the recipe differs from what the paper states; nothing for recipes of other models."""
    if config.model.path != PAPER["model.path"]:
        return []
    settings = config.model_dump()
    found = []
    for key, stated in PAPER.items():
        section, _, name = key.partition(".")
        value = settings[section].get(name)
        if value != stated and not (key == "rollout.solver" and config.objective.family == "reverse"):
            found.append(f"{key} is {value}; the paper has {stated}")
    if config.model.max_sequence_length == 0:
        found.append("the text encoder T5 is left out (model.max_sequence_length=0)")
    if config.model.quantization:
        found.append(f"the base is held in {config.model.quantization}")
    if config.model.dtype != "float16":
        found.append(
            f"model.dtype is {config.model.dtype}; the code that the paper changed (arXiv 2509.16117) has float16"
        )
    if str(config.prompts.train).startswith("ocr:"):
        found.append("prompts are generated; the paper uses the files of OCR prompts of arXiv 2505.05470")
    if {"ocr"} & {*config.reward_weights}:
        found.append("the OCR engine is rapidocr; the paper's code base uses PaddleOCR")
    return found


def _describe_prompts(config: Config) -> list[str]:
    """What will be trained on and held out; a set of the hub is not fetched for it."""
    from advantageflow.pairs import describe, load_pairs, trained
    from advantageflow.prompts import describe_sets, load_prompt_sets

    settings, source = config.prompts, config.rollout.source
    fetched = [name for name in (settings.train, settings.held_out) if str(name).startswith("hub:")]
    if fetched:
        return [f"prompts: {' and '.join(map(str, fetched))}, fetched when the run starts"]
    train, held_out = load_prompt_sets(settings)
    told = describe_sets(train, held_out)
    if source is not None:
        pairs = load_pairs(source, picture_size(config.model), settings.column)
        told.append(describe(pairs, trained(pairs, train.texts), source))
    return told


def _cost_rows(plan: Plan) -> list[tuple[str, str]]:
    """Memory by stage, then each device: hours, and whether it has the memory."""
    if not plan.memory_gb:
        return [("memory and hours", "not known for this model")]
    rows = [(f"memory while {stage}, about", f"{size:.1f} GB") for stage, size in plan.memory_gb.items()]
    stage, peak = max(plan.memory_gb.items(), key=lambda entry: entry[1])
    rows.append(("most memory", f"{peak:.1f} GB, while {stage}"))
    for name, (rate, size) in GPUS.items():
        changes = plan.fits[name]
        fits = " ".join(["it fits", *(["with about"] if plan.sizes[name] else []), *plan.sizes[name]])
        if changes:
            fits = f"its {size} GB are enough with {' '.join(changes)}"
        elif changes is None:
            fits = (
                f"its {size} GB are not enough; learned rewards may be served by another machine (advantageflow serve)"
            )
        rows.append((f"hours on one {name}, about", f"{shown_hours(plan.hours[name])} at {rate} TFLOP/s; {fits}"))
    speed, memory = cpu_rate(), main_memory_gb()
    fits = "it fits" if peak <= memory else f"its {memory:.0f} GB are not enough"
    rows.append(("hours on this CPU, about", f"{shown_hours(plan.hours_at(speed))} at {speed:.2g} TFLOP/s; {fits}"))
    return [*rows, ("not counted", "scoring, and the start")]


def shown_hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 0.1 else "less than 0.1"


def cpu_rate() -> float:
    """Teraflops a second that training may reach on this CPU, by a fifth of a second of matrix products."""
    import numpy as np

    size, seconds = 1024, 0.2
    matrix = np.ones((size, size), np.float32)
    end, fastest = time.perf_counter() + seconds, float("inf")
    while (start := time.perf_counter()) < end:
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - start)
    return CPU_SHARE * 2 * size**3 / fastest / 1e12


def main_memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def print_plan(config: Config) -> None:
    from rich.console import Console
    from rich.table import Table

    own, known = custom(config.reward_names), ARCHITECTURES.get(config.model.path)
    if known:
        check_path(config.objective, known.family, known.family not in CURVED)
    if config.objective.family == "gradient":
        check_gradients(config.reward_weights, config.objective.name)
    if Path(locate(config.model.path)).is_dir():  # the index of the hub's is fetched when the run starts
        check_learned(config.objective, config.model.path, check_family(config.model))
    plan, prompts = make_plan(config), _describe_prompts(config)
    table = Table(title=f"Plan of {config.name}", show_header=False)
    table.add_row("model", config.model.path)
    table.add_row("method", config.objective.name)
    table.add_row("trained on", ", ".join(map(cut, config.reward_weights or [f"the pairs of {config.rollout.source}"])))
    table.add_row("evaluated on held-out prompts", described(config.evaluation.rewards))
    if own:
        table.add_row("imports custom code", ", ".join(map(cut, own)))
    table.add_row("images per iteration", f"{plan.images} ({config.rollout.prompts_per_iteration} prompts)")
    table.add_row("transformer calls per iteration", f"{plan.sampling_calls} sampling, {plan.learning_calls} learning")
    table.add_row("  of these with gradients", str(plan.gradient_calls))
    table.add_row("iterations", str(config.run.iterations))
    for section in automatic(config):
        table.add_row(f"{section}.batch_size", "auto: found while it runs; memory is told of 1 at once")
    for row in _cost_rows(plan):
        table.add_row(*row)
    if plan.downloads:
        parts = ", ".join(f"{name} {size:.1f}" for name, size in plan.downloads.items())
        table.add_row("fetched on first use", f"{sum(plan.downloads.values()):.1f} GB: {parts}")
    console = Console(markup=False)
    console.print(table)
    for line in prompts:
        console.print(line, highlight=False, soft_wrap=True)
    if plan.departures:
        console.print("Departures from the paper:", highlight=False)
        for line in (*plan.departures, UNSTATED):
            console.print(f"- {line}", highlight=False)
