"""What a recipe will cost, told before anything is loaded: `advantageflow train RECIPE --plan`.

The figures are estimates from the sizes of known models; the assumptions are printed with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advantageflow.config import Config, PromptSettings
from advantageflow.models import BUILT_IN as BUILT_IN_MODELS
from advantageflow.rewards import BUILT_IN


@dataclass(frozen=True)
class ModelFacts:
    """A transformer of two streams: parameters in billions, width, layers, text tokens; other parts in GB."""

    parameters: float
    width: int
    layers: int
    text_tokens: int
    encoders: float
    vae: float


MODELS = {
    "scenes": ModelFacts(0.0054, 160, 6, 10, 0.001, 0.002),
    "words": ModelFacts(0.0035, 128, 6, 10, 0.001, 0.002),
    "stabilityai/stable-diffusion-3.5-medium": ModelFacts(2.47, 1536, 24, 205, 11.4, 0.17),
    "stabilityai/stable-diffusion-3.5-large": ModelFacts(8.06, 2432, 38, 205, 11.4, 0.17),
    "black-forest-labs/FLUX.1-dev": ModelFacts(11.9, 3072, 57, 512, 9.8, 0.17),
    "black-forest-labs/FLUX.1-schnell": ModelFacts(11.9, 3072, 57, 512, 9.8, 0.17),
    "Qwen/Qwen-Image": ModelFacts(20.4, 3072, 60, 128, 16.6, 0.25),
}
# Hub repository -> about how many GB are fetched
DOWNLOADS = {
    "yuvalkirstain/PickScore_v1": 3.9,
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 0.004,  # the tokenizer alone
    "xswu/HPSv2": 2.0,
    "openai/clip-vit-large-patch14": 1.7,
    "trl-lib/ddpo-aesthetic-predictor": 0.004,
    "THUDM/ImageReward": 1.8,
    "google-bert/bert-base-uncased": 0.001,
    "facebook/mask2former-swin-small-coco-instance": 0.3,
}
# Teraflops a second that training reaches in half precision, about 40 % of the peak; memory in GB
GPUS = {"H100": (400, 80), "A100": (125, 80), "4090": (65, 24)}
DEFAULT_RESOLUTION = 1024
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
    "the decay of the rollout policy, learning rate and weight decay, gradient clipping: as in DiffusionNFT's code, "
    "since the paper states none"
)


@dataclass(frozen=True)
class Plan:
    """Per iteration: images, and calls of the transformer on one image; then the whole run."""

    images: int
    sampling_calls: int
    learning_calls: int
    gradient_calls: int
    memory_gb: float | None
    hours: dict[str, float]
    downloads: dict[str, float]
    departures: list[str]


def make_plan(config: Config) -> Plan:
    """Count and estimate; loads nothing."""
    rollout, learn = config.rollout, config.learn
    images = rollout.prompts_per_iteration * rollout.images_per_prompt
    per_step = 2 if rollout.solver == "heun" else 1
    sampling = images * rollout.num_inference_steps * per_step * (2 if rollout.guidance_scale != 1 else 1)
    gradient = images * learn.t_draws
    others = gradient * (1 if config.objective.family == "reverse" else 2)  # reference, and rollout policy
    facts = MODELS.get(config.model.path)
    hours: dict[str, float] = {}
    if facts:
        # a gradient costs two further passes, and one more where activations are computed again
        passes = sampling + others + gradient * (4 if config.model.gradient_checkpointing else 3)
        flops = passes * forward_flops(facts, config) * config.run.iterations
        hours = {name: flops / (rate * 1e12) / 3600 for name, (rate, _) in GPUS.items()}
    return Plan(
        images=images,
        sampling_calls=sampling,
        learning_calls=gradient + others,
        gradient_calls=gradient,
        memory_gb=None if facts is None else memory_gb(facts, config),
        hours=hours,
        downloads=_downloads(config, facts),
        departures=departures(config),
    )


def image_tokens(config: Config) -> int:
    size = config.model.resolution or (64 if config.model.path in BUILT_IN_MODELS else DEFAULT_RESOLUTION)
    height, width = size if isinstance(size, tuple) else (size, size)
    return (height // 16) * (width // 16)


def forward_flops(facts: ModelFacts, config: Config) -> float:
    """Of one image once through the transformer: each stream has half of the weights, and all tokens attend to all."""
    tokens = image_tokens(config) + facts.text_tokens
    return facts.parameters * 1e9 * tokens + 4 * facts.layers * facts.width * tokens**2


def memory_gb(facts: ModelFacts, config: Config) -> float:
    """On the GPU while learning, about: weights, three adapters with gradient and Adam's state, and activations."""
    bytes_per_weight = {"float32": 4, "bfloat16": 2, "float16": 2}[config.model.dtype]
    bits = {"8bit": 1.0, "4bit": 0.5}.get(config.model.quantization or "", bytes_per_weight)
    weights = facts.parameters * bits
    adapter = facts.layers * 8 * 2 * facts.width * config.policy.lora_rank / 1e9
    adapters = adapter * 4 * 6 if config.policy.lora_rank else facts.parameters * 4 * 6
    kept = 2 if config.model.gradient_checkpointing else 34  # numbers kept per token, layer and channel
    tokens = image_tokens(config) + facts.text_tokens
    layers = facts.layers + (34 / kept if config.model.gradient_checkpointing else 0)
    activations = config.learn.batch_size * tokens * facts.width * layers * kept * bytes_per_weight / 1e9
    idle = 0.0 if config.model.offload else facts.encoders + facts.vae * bytes_per_weight / 2
    rewards = sum(DOWNLOADS[name] for name in _reward_weights(config))
    return weights + adapters + activations + idle + rewards


def _reward_weights(config: Config) -> list[str]:
    names = {*config.reward_weights, *config.evaluation.rewards.values()}
    return sorted({weights for name in names if name in BUILT_IN for weights in BUILT_IN[name].weights})


def _downloads(config: Config, facts: ModelFacts | None) -> dict[str, float]:
    found = {name: DOWNLOADS[name] for name in _reward_weights(config)}
    if facts and config.model.path not in BUILT_IN_MODELS:
        found = {config.model.path: facts.parameters * 2 + facts.encoders + facts.vae, **found}
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
    if config.model.dtype != "float16":
        found.append(f"model.dtype is {config.model.dtype}; DiffusionNFT's code, which the paper changed, has float16")
    if str(config.prompts.train).startswith("ocr:"):
        found.append("prompts are generated; the paper uses Flow-GRPO's files of OCR prompts")
    if {"ocr"} & {*config.reward_weights}:
        found.append("the OCR engine is rapidocr; the paper's code base uses PaddleOCR")
    return found


def _describe_prompts(settings: PromptSettings) -> list[str]:
    """What will be trained on and held out; a set of the hub is not fetched for it."""
    from advantageflow.prompts import describe_sets, load_prompt_sets

    fetched = [name for name in (settings.train, settings.held_out) if str(name).startswith("hub:")]
    if fetched:
        return [f"prompts: {' and '.join(map(str, fetched))}, fetched when the run starts"]
    return describe_sets(*load_prompt_sets(settings))


def print_plan(config: Config) -> None:
    from rich.console import Console
    from rich.table import Table

    plan, prompts = make_plan(config), _describe_prompts(config.prompts)
    table = Table(title=f"Plan of {config.name}", show_header=False)
    table.add_row("model", config.model.path)
    table.add_row("method", config.objective.name)
    table.add_row("images per iteration", f"{plan.images} ({config.rollout.prompts_per_iteration} prompts)")
    table.add_row("transformer calls per iteration", f"{plan.sampling_calls} sampling, {plan.learning_calls} learning")
    table.add_row("  of these with gradients", str(plan.gradient_calls))
    table.add_row("iterations", str(config.run.iterations))
    if plan.memory_gb is None:
        table.add_row("memory and hours", "not known for this model")
    else:
        table.add_row("GPU memory, about", f"{plan.memory_gb:.0f} GB")
        for name, hours in plan.hours.items():
            rate, memory = GPUS[name]
            fits = "" if plan.memory_gb <= memory else f", but it has {memory} GB"
            table.add_row(f"hours on one {name}, about", f"{hours:.1f} at {rate} TFLOP/s{fits}")
    for name, size in plan.downloads.items():
        table.add_row("fetched on first use", f"{name}, {size:.1f} GB")
    console = Console()
    console.print(table)
    for line in prompts:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if plan.departures:
        console.print("Departures from the paper:", highlight=False)
        for line in (*plan.departures, UNSTATED):
            console.print(f"- {line}", highlight=False, markup=False)
