"""How much memory each stage of a run takes, estimated from the sizes of known models, and what makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from advantageflow.config import Config
from advantageflow.fits import LARGEST_OF_GPU
from advantageflow.models import picture_size
from advantageflow.rewards import BUILT_IN


@dataclass(frozen=True)
class ModelFacts:
    """A transformer of two streams, and what goes with it; tests count these on the published architectures.

    A U-Net is taken for the transformer that does as many operations and keeps as many activations.

    Args:
        parameters: of the transformer and its table of positions, in billions.
        width, layers: of the transformer.
        adapted: how many of its layers get an adapter with `policy.lora_targets` attention.
        image_weights, text_weights: that one token of an image or of a prompt is multiplied with, in billions.
        text_tokens, text_width: of a prompt's embedding.
        encoders, vae: text encoders and VAE in half precision, GB.
        second: layers in which the image's tokens attend to themselves once more.
        attending: layers whose tokens all attend to all; None for all layers.
        decode_bytes: that decoding takes per pixel in half precision, at its peak.
        decode_flops: of decoding, per pixel.
        wide: of the parameters those that model.quantization=fp8 leaves in half precision, in billions.
        dispensable: GB of `encoders` and tokens of `text_tokens` that are left out with model.max_sequence_length=0.
    """

    parameters: float
    width: int
    layers: int
    adapted: int
    image_weights: float
    text_weights: float
    text_tokens: int
    text_width: int
    encoders: float
    vae: float
    second: int = 0
    attending: int | None = None
    decode_bytes: float = 1900  # 16 pictures of 512² take 8 GB
    decode_flops: float = 9.5e6
    wide: float = 0.0
    dispensable: tuple[float, int] = (0.0, 0)


def _small(parameters: float, width: int) -> ModelFacts:
    """A built-in model: each stream has half of the weights; its VAE has a sixteenth of the channels."""
    half = parameters / 2
    return ModelFacts(parameters, width, 6, 47, half, half, 10, 128, 0.001, 0.002, 0, None, 1900 / 16, 9.5e6 / 256)


T5 = (9.53, 128)
LINEAR = 3.3  # an adapter on a transformer's linear layers is so many times as large as one on its attention
_FLUX = ModelFacts(11.9, 3072, 57, 266, 6.455, 6.468, 512, 4096, 9.8, 0.17, wide=3.25)
MODELS = {
    "scenes": _small(0.0054, 160),
    "words": _small(0.0035, 128),
    "scenes-meanflow": _small(0.0054, 160),
    "stabilityai/stable-diffusion-3.5-medium": ModelFacts(
        2.47, 1536, 24, 191, 0.802, 0.665, 205, 4096, 11.2, 0.17, second=13, wide=0.994, dispensable=T5
    ),
    "stabilityai/stable-diffusion-3.5-large": ModelFacts(
        8.15, 2432, 38, 303, 2.697, 2.654, 205, 4096, 11.2, 0.17, wide=2.777, dispensable=T5
    ),
    "black-forest-labs/FLUX.1-dev": _FLUX,
    "black-forest-labs/FLUX.1-schnell": _FLUX,
    "Qwen/Qwen-Image": ModelFacts(20.4, 3072, 60, 480, 6.795, 6.806, 128, 3584, 16.6, 0.25),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelFacts(
        0.86, 779, 18, 128, 0.318, 0.051, 77, 768, 0.246, 0.167, attending=38
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": ModelFacts(
        2.567, 1296, 19, 560, 0.719, 0.384, 77, 2048, 1.636, 0.167, attending=9
    ),
}
# Hub repository of a reward -> about how many GB are fetched
REWARDS = {
    "yuvalkirstain/PickScore_v1": 3.9,
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 0.004,  # the tokenizer alone
    "xswu/HPSv2": 2.0,
    "openai/clip-vit-large-patch14": 1.7,
    "trl-lib/ddpo-aesthetic-predictor": 0.004,
    "THUDM/ImageReward": 1.8,
    "google-bert/bert-base-uncased": 0.001,
    "facebook/mask2former-swin-small-coco-instance": 0.3,
}
HELD = {"xswu/HPSv2": 3.9}  # of these more than is fetched, since all are held in float32
CACHED_PROMPTS = 2048  # whose embeddings are kept
CUDA_CONTEXT = 0.6
ENCODING = 0.5  # activations of the text encoders, for one prompt
REWARD_IMAGE = 0.02  # activations of a learned reward, for one picture
LIVE = 16  # numbers per token and channel that a layer holds at once without gradients
# Numbers per token, channel and layer that are kept for the gradient: measured with SD3.5 Medium on an H100
KEPT, KEPT_CHECKPOINTED = 24, 1
KEPT_DECODING = 6  # what decoding keeps for the gradient, in units of its peak without one
REWARD_GRADIENT = 0.45  # what a learned reward keeps of one picture for the gradient, a ViT-H/14 in float32
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def facts_of(config: Config) -> ModelFacts | None:
    """What is known of the model that a recipe names, as far as the recipe loads it."""
    facts = MODELS.get(config.model.base or config.model.path)
    if facts is None or config.model.max_sequence_length != 0:
        return facts
    size, tokens = facts.dispensable
    return replace(facts, encoders=facts.encoders - size, text_tokens=facts.text_tokens - tokens)


def pixels(config: Config) -> int:
    """Of one image."""
    height, width = picture_size(config.model)
    return height * width


def image_tokens(config: Config) -> int:
    """Patches of 16 by 16 pixels."""
    return pixels(config) // 256


def reward_weights(config: Config) -> list[str]:
    """Hub repositories of the rewards that are trained on or evaluated."""
    names = {*config.reward_weights, *config.evaluation.rewards.values()}
    return sorted({weights for name in names if name in BUILT_IN for weights in BUILT_IN[name].weights})


def _held_rewards(config: Config) -> float:
    """GB of the rewards' weights; rewards that share a repository hold it each."""
    names = [name for name in config.reward_names if name in BUILT_IN]
    return sum(HELD.get(weights, REWARDS[weights]) for name in names for weights in BUILT_IN[name].weights)


def automatic(config: Config) -> list[str]:
    """The sections whose batch size is "auto"."""
    return [name for name in ("rollout", "learn") if getattr(config, name).batch_size == "auto"]


def _at_once(config: Config, section: str) -> int:
    """A batch size; of "auto" the least."""
    size: int = 1 if section in automatic(config) else getattr(config, section).batch_size
    return size


def stages(facts: ModelFacts, config: Config) -> dict[str, float]:
    """GB at the peak of each stage, about: what is there all the time, and what the stage adds.

    Args:
        config: batch sizes of "auto" count as 1, see `sized`.
    """
    model, rollout, images = config.model, config.rollout, _at_once(config, "rollout")
    precision, held = BYTES[model.dtype], parts(facts, config)
    encoders, vae, rewards = held["text encoders"], held["VAE"], held["rewards"]
    tokens = image_tokens(config) + facts.text_tokens
    channels = tokens * facts.width * precision / 1e9  # one number per token and channel, of one image
    shared = held["transformer"] + held["adapters"] + _optimized(facts, config) + _embeddings(facts, config) + rewards
    shared += 0.0 if model.device == "cpu" else CUDA_CONTEXT
    scoring = REWARD_IMAGE * images if rewards else 0.0
    idle = 0.0 if model.offload else encoders + vae
    passes = 2 if rollout.guidance_scale != 1 else 1
    sampling = images * passes * channels * LIVE + _latents(config)
    decoded = 1 if model.vae_slicing else images
    decoding = decoded * pixels(config) * facts.decode_bytes * precision / 2 / 1e9
    return {
        "text encoding": shared + encoders + (0 if model.offload else vae) + ENCODING * min(1, facts.encoders),
        "sampling": shared + idle + sampling,
        "decoding": shared + (vae if model.offload else idle) + decoding + _latents(config),
        "scoring and sampling": shared + idle + sampling + scoring,
        "learning": shared
        + idle
        + _kept(facts, config, channels)
        + _trained(facts, config) * (4 if config.learn.accumulate == "float32" else 8)
        + _through_pictures(facts, config)
        + _latents(config),
    }


def _kept(facts: ModelFacts, config: Config, channels: float) -> float:
    """Activations of the transformer in all its calls for a batch; checkpointed, those of one layer again.

    Args:
        channels: one number per token and channel of one image, GB.
    """
    rollout, method = config.rollout, config.objective
    calls: int = method.calls(rollout.num_inference_steps)
    if method.family == "gradient" and rollout.guidance_scale != 1:
        calls *= 2
    checkpointed = config.model.gradient_checkpointing
    layers = calls * facts.layers * (KEPT_CHECKPOINTED if checkpointed else KEPT) + (KEPT if checkpointed else 0)
    return _at_once(config, "learn") * channels * layers


def _through_pictures(facts: ModelFacts, config: Config) -> float:
    """Of a gradient method: what decoding and scoring a batch keep, and a VAE that stays on the GPU for it."""
    method, model = config.objective, config.model
    if method.family != "gradient":
        return 0.0
    precision = BYTES[model.dtype] / 2
    pictures: int = _at_once(config, "learn") * method.pictures()
    decoded = 1 if model.vae_slicing else pictures
    decoding = decoded * pixels(config) * facts.decode_bytes * precision * KEPT_DECODING / 1e9
    learned = sum(bool(BUILT_IN[name].weights) for name in config.reward_weights if name in BUILT_IN)
    return decoding + pictures * learned * REWARD_GRADIENT + (facts.vae * precision if model.offload else 0.0)


def parts(facts: ModelFacts, config: Config) -> dict[str, float]:
    """GB of the weights of each part; of adapters, or of other copies of the weights, all roles'."""
    full, kind = BYTES[config.model.dtype], config.model.quantization or ""
    size = {"fp8": 1.0, "8bit": 1.0, "4bit": 0.5}.get(kind, full)  # of a weight
    wide = facts.wide if kind == "fp8" else 0.0
    precision = full / 2
    copies = 2 + len(config.objective.slow) + config.rollout.ahead  # rollout, average; others
    # without LoRA the learner is the transformer itself, and the reference one more copy
    return {
        "transformer": (facts.parameters - wide) * size + wide * full,
        "adapters": _trained(facts, config) * (1 + copies) * 4,
        "text encoders": facts.encoders * precision,
        "VAE": facts.vae * precision,
        "rewards": _held_rewards(config),
    }


def _optimized(facts: ModelFacts, config: Config) -> float:
    """Gradients, and the optimizer's state."""
    moments = 2 if config.learn.optimizer == "adamw_8bit" else 8
    return _trained(facts, config) * (4 + moments)


def _trained(facts: ModelFacts, config: Config) -> float:
    """Parameters, in billions: of an adapter on the attention of every block or on all its linear layers, or all."""
    layers = facts.adapted * (LINEAR if config.policy.lora_targets == "linear" else 1)
    return layers * 2 * facts.width * config.policy.lora_rank / 1e9 or facts.parameters


def _embeddings(facts: ModelFacts, config: Config) -> float:
    drawn = config.rollout.prompts_per_iteration * config.run.iterations + config.evaluation.num_images
    numbers = min(CACHED_PROMPTS, drawn) * facts.text_tokens * facts.text_width
    return numbers * BYTES[config.model.dtype] / 1e9


def _latents(config: Config) -> float:
    """Of an iteration's images, 64 numbers a token; with all states of the path where it is an SDE's."""
    images = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
    states = config.rollout.num_inference_steps + 2 if config.objective.family == "reverse" else 1
    return images * states * image_tokens(config) * 64 * 4 / 1e9


def sized(facts: ModelFacts, config: Config, capacity: float) -> Config:
    """A batch size of "auto" as a number: the largest power of two with which no stage takes more than `capacity` GB.

    Where none does it is 1.
    """
    sections = automatic(config)
    config = changed(config, [(name, "batch_size", 1) for name in sections])
    for name in sections:
        before = stages(facts, config)
        for size in (2**i for i in range(1, LARGEST_OF_GPU.bit_length())):
            larger = changed(config, [(name, "batch_size", size)])
            if any(peak > max(capacity, before[stage]) for stage, peak in stages(facts, larger).items()):
                break
            config = larger
    return config


def what_fits(facts: ModelFacts, config: Config, capacity: float) -> list[str] | None:
    """The fewest changes, the cheapest first, with which no stage takes more than `capacity` GB; None if none do."""
    changes: list[tuple[str, str, Any]] = []
    for change in _savings(config):
        before = max(stages(facts, changed(config, changes)).values())
        if before <= capacity:
            break
        if max(stages(facts, changed(config, [*changes, change])).values()) < before:
            changes = [other for other in changes if other[:2] != change[:2]] + [change]
    if max(stages(facts, changed(config, changes)).values()) > capacity:
        return None
    for change in list(changes):  # a later one may have made an earlier one needless
        fewer = [other for other in changes if other != change]
        if max(stages(facts, changed(config, fewer)).values()) <= capacity:
            changes = fewer
    return [f"{section}.{key}={_written(value)}" for section, key, value in changes]


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "'{" + ", ".join(f"{key}: {part}" for key, part in value.items()) + "}'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _savings(config: Config) -> Iterator[tuple[str, str, Any]]:
    """Changes that save memory: first those that cost little time, then those that cost much, last precision."""
    yield ("model", "vae_slicing", True)
    yield ("model", "offload", True)
    for section in ("rollout", "learn"):
        size = _at_once(config, section)
        while size > 4:
            size //= 2
            yield (section, "batch_size", size)
    yield ("model", "gradient_checkpointing", True)
    yield ("rollout", "batch_size", 1)
    yield ("learn", "batch_size", 1)
    yield ("learn", "accumulate", "float32")
    yield ("learn", "optimizer", "adamw_8bit")
    trained = {label: name for label, name in config.evaluation.rewards.items() if name in config.reward_weights}
    if trained:
        yield ("evaluation", "rewards", trained)
    if config.policy.lora_rank:
        yield ("model", "dtype", "bfloat16")
        yield ("model", "quantization", "fp8")
        yield ("model", "quantization", "4bit")


def changed(config: Config, changes: list[tuple[str, str, Any]]) -> Config:
    """With other values of (section, key, value), which are not checked."""
    for section, key, value in changes:
        part = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: part})
    return config
