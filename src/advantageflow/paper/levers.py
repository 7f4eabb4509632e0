"""What might need fewer images for the same reward: one change at a time, and changes together, each a run's settings.

All are of AdvantageFlow(0.5), which is as good as DiffusionNFT with β = 0.2, at its searched learning rate. Runs are of
1920 images, 0.4 of the 4800 that others get: how far they come is the question. Levers are pulled on seeds that no
result is made of: all on the first, the FINALISTS best of them on the others. What they choose is then run like any
other method.
"""

from __future__ import annotations

LEVER_SEEDS = (1000, 1001, 1002)
FINALISTS = 6
START = ("objective=advantageflow", "objective.gamma=0.5")
_SHORT = ("run.iterations=10", "evaluation.every=10")
_FAST, _UNIFORM = ("learn.learning_rate=0.004",), ("learn.t_distribution=uniform",)
_STEPS = ("learn.optimizer_steps=4", "learn.learning_rate=0.002")
_SHARED, _DIVIDED = ("learn.share=group",), ("objective.adaptive_scale=true",)
_TOGETHER = (*_STEPS, *_SHARED, *_DIVIDED)
_EIGHT = ("learn.optimizer_steps=8",)
_LARGE = ("rollout.images_per_prompt=24", "rollout.prompts_per_iteration=8")
_QUARTER, _ROLLOUT, _AVERAGE = ("objective.gamma=0.25",), ("policy.rollout_decay=0.5",), ("policy.average_decay=0.5",)
_RANK = ("policy.lora_rank=128", "policy.lora_alpha=256")
_QUICK_SQUARES, _FREE = ("learn.beta2=0.95",), ("objective.reference_weight=0",)
_CLIPPED, _CENTRED = ("advantage.clip=3",), ("advantage.recenter=true",)
_NOISIER = (*_UNIFORM, "learn.t_range=[0.5,1]")
_CONVEX, _DAMPED = ("objective.gamma=auto",), ("learn.max_grad_norm=0.3", *_QUICK_SQUARES)
_SMALLER = ("rollout.images_per_prompt=6", "rollout.prompts_per_iteration=32")
_LINEAR, _ALL = ("policy.lora_targets=linear",), ("policy.lora_rank=0", "learn.learning_rate=0.0003")


def _added(base: tuple[str, ...], begun: str, changes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Further changes to some that are made, under names that begin with theirs."""
    return {f"{begun}{name}": (*base, *further) for name, further in changes.items()}


LEVERS: dict[str, tuple[str, ...]] = {
    "start": _FAST,
    "4 steps": _STEPS,
    "4 steps, shared": (*_STEPS, *_SHARED),
    "4 steps, divided": (*_STEPS, *_DIVIDED),
    "8 steps, shared, divided": (*_TOGETHER, *_EIGHT),
    "4 steps, shared, divided": _TOGETHER,
}
LEVERS |= _added(
    _TOGETHER,
    "4 steps, shared, divided, ",
    {
        "0.004": _FAST,
        "γ 0.25": _QUARTER,
        "groups of 24": _LARGE,
        "re-centred": _CENTRED,
        "cosine": ("learn.schedule=cosine", *_FAST),
        "rollout policy at 0.5": _ROLLOUT,
        "average at 0": ("policy.average_decay=0",),
        "average at 0.5": _AVERAGE,
    },
)
LEVERS |= _added(
    (*_TOGETHER, *_AVERAGE),
    "4 steps, shared, divided, average at 0.5, ",
    {
        "linear layers": _LINEAR,
        "linear layers, 0.004": (*_LINEAR, *_FAST),
        "linear layers, 0.003, γ 0.25": (*_LINEAR, "learn.learning_rate=0.003", *_QUARTER),
        "linear layers, rank 64": (*_LINEAR, "policy.lora_rank=64", "policy.lora_alpha=128"),
        "all weights": _ALL,
        "all weights, 0.00015": (*_ALL, "learn.learning_rate=0.00015"),
        "all weights, 0.0006": (*_ALL, "learn.learning_rate=0.0006"),
        "all weights, γ 0.25": (*_ALL, *_QUARTER),
        "0.004": _FAST,
        "γ 0.25": _QUARTER,
        "rollout policy at 0.5": _ROLLOUT,
        "β₂ 0.95": _QUICK_SQUARES,
        "8 steps": _EIGHT,
        "groups of 24": _LARGE,
        "rank 128": _RANK,
        "own noise": ("learn.share=null",),
        "t below 0.8": (*_UNIFORM, "learn.t_range=[0,0.8]"),
    },
)
LEVERS |= _added(
    (*_TOGETHER, *_AVERAGE, *_ALL, *_QUARTER),
    "4 steps, shared, divided, average at 0.5, all weights, γ 0.25, ",
    {
        "rollout policy at 0.5": _ROLLOUT,
        "β₂ 0.95": _QUICK_SQUARES,
        "8 steps": _EIGHT,
        "γ 0.15": ("objective.gamma=0.15",),
        "λ 0": _FREE,
        "clip at 3": _CLIPPED,
        "t above 0.5": _NOISIER,
        "groups of 6": _SMALLER,
        "re-centred": _CENTRED,
    },
)
# Pulled once the choice below had been made and run.
LATER = _added(
    (*_TOGETHER, *_AVERAGE, *_ALL, *_NOISIER),
    "4 steps, shared, divided, average at 0.5, all weights, t above 0.5, ",
    {
        "γ 0.25, λ 0": (*_QUARTER, *_FREE),
        "γ 0.25, β₂ 0.95, gradients at 0.3": (*_QUARTER, *_DAMPED),
        "γ 0.25, λ 0, β₂ 0.95, gradients at 0.3": (*_QUARTER, *_FREE, *_DAMPED),
        "γ auto": _CONVEX,
        "γ auto, 0.0006": (*_CONVEX, "learn.learning_rate=0.0006"),
        "γ auto, 0.0006, β₂ 0.95": (*_CONVEX, "learn.learning_rate=0.0006", *_QUICK_SQUARES),
    },
)
LEVERS |= LATER
LEVERS |= _added(
    _FAST,
    "",
    {
        "shared noise": _SHARED,
        "divided by errors": _DIVIDED,
        "uniform t": _UNIFORM,
        "t above 0.5": _NOISIER,
        "t below 0.6": (*_UNIFORM, "learn.t_range=[0,0.6]"),
        "2 draws": ("learn.t_draws=2",),
        "8 draws": ("learn.t_draws=8",),
        "γ 0.25": _QUARTER,
        "γ 1-A": ("objective.gamma=1-A",),
        "λ 0": _FREE,
        "ranks": ("advantage.normalize=group_rank",),
        "re-centred": _CENTRED,
        "clip at 3": _CLIPPED,
        "groups of 6": _SMALLER,
        "groups of 24": _LARGE,
        "rollout policy at 0.5": _ROLLOUT,
        "rollout policy at 0.9": ("policy.rollout_decay=0.9",),
        "average at 0": ("policy.average_decay=0",),
        "average at 0.5": _AVERAGE,
        "drafts": ("rollout.drafts=2", "rollout.drafting_steps=4"),
        "6 rollout steps": ("rollout.num_inference_steps=6",),
        "cosine from 0.008": ("learn.schedule=cosine", "learn.learning_rate=0.008"),
        "β₂ 0.95": _QUICK_SQUARES,
        "no weight decay": ("learn.weight_decay=0",),
        "rank 8": ("policy.lora_rank=8", "policy.lora_alpha=16"),
        "rank 64": ("policy.lora_rank=64", "policy.lora_alpha=128"),
        "rank 128": _RANK,
        "all weights": _ALL,
        "linear layers": _LINEAR,
    },
)

# A test holds it against the stored results.
CHOSEN = "4 steps, shared, divided, average at 0.5, all weights, γ 0.25, t above 0.5"
# What the recipe scenes-best changes of that, since it draws 15360 images (docs/experiments.md, "In the time of
# `make train`").
LONGER = (*_CONVEX, *_FREE, *_DAMPED, "policy.average_decay=0.98", "run.iterations=80", "evaluation.every=20")


def lever(name: str) -> str:
    """The label of a lever's runs."""
    return f"lever: {name}"


def settings_of(name: str) -> tuple[str, ...]:
    """What a lever changes of the recipe, all images given to it; what is said later wins."""
    found = dict(change.split("=", 1) for change in (*START, *LEVERS[name]))
    return tuple(f"{key}={value}" for key, value in found.items())


def short_settings_of(name: str) -> tuple[str, ...]:
    """The same with 1920 images."""
    return (*settings_of(name), *_SHORT)
