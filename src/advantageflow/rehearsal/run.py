"""A rehearsal: everything is built, one iteration runs, and what it took is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers.utils import logging
from peft import get_peft_model_state_dict
from rich.console import Console
from torch import nn

from advantageflow.building import Inputs, build, load_inputs
from advantageflow.config import Config
from advantageflow.devices import choose_device
from advantageflow.errors import ConfigError, out_of_memory
from advantageflow.memory import ModelFacts, changed, facts_of, parts, stages, what_fits
from advantageflow.models import BUILT_IN, adapter_of, load_and_say, load_model
from advantageflow.models.architectures import ARCHITECTURES
from advantageflow.models.base import FlowModel
from advantageflow.models.random_pipeline import empty_pipeline, random_pipeline
from advantageflow.plan import calls, main_memory_gb
from advantageflow.policy import Policy
from advantageflow.prompts import load_prompt_sets
from advantageflow.rehearsal.meter import Meter, MeteredDisplay
from advantageflow.rehearsal.reckoning import Measured, planned
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import score
from advantageflow.rewards.untrained import rehearsed_reward
from advantageflow.run.directory import RunDirectory
from advantageflow.run.progress import Display, say
from advantageflow.trainer import Trainer


@dataclass(frozen=True)
class Built:
    """A trainer at its model's true size, with random weights.

    sizes: part -> bytes of its weights; prompts: how many were embedded; notes: on rewards that are not what they seem.
    """

    trainer: Trainer
    inputs: Inputs
    sizes: Mapping[str, int]
    prompts: int
    notes: list[str]
    in_turn: bool


@contextmanager
def built(
    config: Config, console: Console, meter: Meter, display: Display | None = None, iterations: int = 1
) -> Iterator[Built]:
    """Build all that shortened settings need, in a temporary folder.

    Args:
        config: see `shortened.shorten`.
        display: of the trainer's progress; by default the usual one on `console`.
        iterations: that will be run at most; prompts of these are embedded.

    Raises:
        ConfigError: main memory or the GPU's is not enough, here or in the block, with the changes that fit; or see
            `building.load_inputs`.
    """
    facts = facts_of(config)
    assert facts is not None  # which `shorten` has checked
    in_turn, told = not _fits_whole(facts, config, meter.device), partial(say, console)
    try:
        meter.enter("building")
        model = _build_model(config, meter.device, told)
        sizes = {"text encoders": sum(map(held, model._encoders())), "VAE": held(model.pipeline.vae)}
        prompts = _encode(config, model, meter, iterations)
        if in_turn:
            told("the text encoders are dropped, since main memory does not hold them beside all else")
            model.pipeline.register_modules(**dict.fromkeys(model.text_encoders))
        meter.enter("building")
        rewards, notes = _build_rewards(config)
        inputs = load_inputs(config, console, rewards, known_model=True)
        sizes["rewards"] = sum(held(network) for reward in rewards.values() for network in _networks(reward))
        with TemporaryDirectory(prefix="advantageflow-rehearsal-") as folder:
            directory = RunDirectory.create(Path(folder) / "run", config)
            trainer = build(config, directory, inputs, console, model=model, display=display)
            adapters = sum(weight.nbytes for weight in trainer.policy.adapters)
            sizes = {"transformer": held(model.transformer) - adapters, "adapters": adapters, **sizes}
            part_roles(trainer.policy, config)
            yield Built(trainer, inputs, sizes, prompts, notes, in_turn)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(_too_large(facts, config, meter.device, meter.stage or "building")) from error


def rehearse(config: Config, console: Console) -> Measured:
    """Run one iteration of shortened settings, and measure it.

    Raises:
        ConfigError: see `built`.
    """
    meter = Meter(torch.device(choose_device(config.model.device)))
    display = MeteredDisplay(console, config, meter)
    with built(config, console, meter, display) as found:
        trainer = found.trainer
        meter.watch_decoder(trainer.model.pipeline.vae.decoder)
        with display:
            trainer.iterate()
        per_image = _time_rewards(config, trainer, found.inputs, meter)
        layers = reload_adapter(trainer) if trainer.policy.is_lora else 0
        meter.enter("")
        return Measured(
            device=str(meter.device),
            seconds=dict(meter.seconds),
            cpu_seconds=dict(meter.cpu_seconds),
            peaks={stage: peak / 1e9 for stage, peak in meter.peaks.items()},
            parts={part: size / 1e9 for part, size in found.sizes.items()},
            prompts=found.prompts,
            reward_seconds=per_image,
            adapter_layers=layers,
            trained=sum(weight.numel() for weight in trainer.policy.parameters),
            in_turn=found.in_turn,
            notes=found.notes,
        )


def _build_model(config: Config, device: torch.device, told: Callable[[str], None]) -> FlowModel:
    settings = config.model
    path = settings.base or settings.path
    if path in BUILT_IN:
        return load_and_say(settings, told)
    told(f"building {path} with random weights")
    family = adapter_of(ARCHITECTURES[path].family)
    if settings.base is not None:
        told(f"the file {settings.path} is not read")
    places = "cpu" if settings.shard else str(device), "cpu" if settings.offload else str(device)
    left_out = family.dispensable if settings.max_sequence_length == 0 else ()
    made = random_pipeline(path, getattr(torch, settings.dtype), *places, left_out=left_out)
    return family.load(settings, str(device), made)


def _encode(config: Config, model: FlowModel, meter: Meter, iterations: int) -> int:
    """Embed all prompts that the iterations need; how many these are."""
    train, _ = load_prompt_sets(config.prompts)
    each = config.rollout.prompts_per_iteration
    drawn = [i for number in range(iterations) for i in train.draw(number, each, config.seed)]
    texts = list(dict.fromkeys([*(train.texts[i] for i in drawn), ""]))
    meter.enter("text encoding")
    model.encode(texts)
    meter.enter("")
    return len(texts)


def _build_rewards(config: Config) -> tuple[dict[str, Reward], list[str]]:
    made = {name: rehearsed_reward(name) for name in config.reward_names}
    return {name: reward for name, (reward, _) in made.items()}, [note for _, note in made.values() if note]


def _networks(reward: Any) -> list[nn.Module]:
    """Of a learned reward."""
    found = (
        getattr(getattr(reward, "clip", None), "model", None),
        *(getattr(reward, n, None) for n in ("head", "model")),
    )
    return [part for part in found if isinstance(part, nn.Module)]


def held(network: nn.Module) -> int:
    """Bytes of its weights, each once."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


@torch.no_grad()
def part_roles(policy: Policy, config: Config) -> None:
    """Make the roles differ as they do in the middle of a run: where two are equal, the loop saves calls."""
    parted = calls(config)[1].keys() - {"learner"}
    for role in policy.roles:
        for weight in policy.weights[role]:
            weight += 2e-4 if role in parted else 1e-4


def _time_rewards(config: Config, trainer: Trainer, inputs: Inputs, meter: Meter) -> Mapping[str, float]:
    """Seconds per picture of every reward, learned or evaluated, which are asked one after the other."""
    images, size = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt, config.rollout.batch_size
    count = min(images, size if isinstance(size, int) else images)
    pictures = torch.rand(count, 3, *trainer.model.picture_size, generator=torch.Generator().manual_seed(0))
    found: dict[str, float] = {}
    asked = {
        **{name: (reward, inputs.train_prompts) for name, reward in inputs.rewards.items()},
        **{
            config.evaluation.rewards[label]: (reward, inputs.held_out_prompts)
            for label, reward in inputs.evaluated.items()
        },
    }
    for name, (reward, prompts) in asked.items():
        texts = [prompts.texts[i % len(prompts.texts)] for i in range(count)]
        metadata = [prompts.metadata[i % len(prompts.texts)] for i in range(count)]
        before = meter.seconds["rewards"]
        meter.enter("rewards")
        score(name, reward, pictures, texts, metadata, timeout=config.scoring.timeout)
        meter.enter("")
        found[name] = (meter.seconds["rewards"] - before) / count
    return found


def reload_adapter(trainer: Trainer) -> int:
    """Export the trained adapter, load it with diffusers, and compare; the number of its layers.

    Raises:
        RuntimeError: what was loaded is not what was trained.
    """
    model, exported = trainer.model, trainer.policy.lora_state_dict()
    folder = trainer.directory.lora
    model.save_lora(folder, exported)
    path = model.settings.base or model.settings.path
    plain = empty_pipeline(path) if path in ARCHITECTURES else load_model(path).pipeline
    with _errors_alone():  # diffusers says that there is nothing for the text encoders, which are not there
        plain.load_lora_weights(folder)
    network = getattr(plain, model.network)
    loaded = get_peft_model_state_dict(network, adapter_name=next(iter(network.peft_config)))
    wrong = [name for name in {*exported, *loaded} if not _same(exported.get(name), loaded.get(name))]
    if wrong:
        raise RuntimeError(
            f"diffusers loaded another adapter than was exported: {len(wrong)} weights, such as {wrong[0]}"
        )
    return len(exported) // 2


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Of what diffusers says."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.cpu().float(), other.cpu().float())


def _fits_whole(facts: ModelFacts, config: Config, device: torch.device) -> bool:
    """Whether main memory holds all parts at once that are to be there.

    Raises:
        ConfigError: nor does it where text encoders are dropped after use.
    """
    memory = main_memory_gb()
    if device.type == "cuda":
        sizes = parts(facts, config)
        waiting = sizes["text encoders"] + sizes["VAE"]
        if config.model.offload and waiting > memory:
            raise ConfigError(
                f"model.offload keeps {waiting:.0f} GB of weights in main memory, which has {memory:.0f}; set "
                "model.offload=false"
            )
        return True
    if max(stages(facts, config).values()) <= memory:
        return True
    if max(planned(facts, config, in_turn=True).values()) > memory:
        raise ConfigError(_too_large(facts, config, torch.device("cpu"), "building"))
    return False


def _too_large(facts: ModelFacts, config: Config, device: torch.device, stage: str) -> str:
    """What did not fit, and the fewest changes that do."""
    if device.type == "cuda":
        capacity, whose = torch.cuda.get_device_properties(device).total_memory / 1e9, "GPU memory"
        needed = stages(facts, config)
    else:
        capacity, whose = main_memory_gb(), "main memory"
        needed = planned(facts, config, in_turn=True)
        config = changed(config, [("model", "offload", True)])  # dropped encoders take what offloaded ones do
    peak = max(needed.values())
    fix = what_fits(facts, config, capacity)
    text = f"it takes {' '.join(fix)}" if fix else f"it takes about {1.1 * peak:.0f} GB"
    return f"{capacity:.0f} GB of {whose} are not enough ({stage}; about {peak:.0f} GB are needed); {text}"
