"""What might need fewer images for the same reward: one change at a time, and changes together, each a run's settings.

All are of AdvantageFlow(0.5) at its searched learning rate, which is as good as DiffusionNFT with β = 0.2: both have
the curvature of the best methods here. Runs are of 1920 images, 0.4 of the 4800 that others get: how
far they get is the question. Levers are pulled on seeds that no result is made of.
"""

from __future__ import annotations

LEVER_SEEDS = (1000, 1001, 1002)
START = ("objective=advantageflow", "objective.gamma=0.5", "run.iterations=10", "evaluation.every=10")
STEPS = ("learn.optimizer_steps=4", "learn.learning_rate=0.002")
SHARED, ADAPTIVE = ("learn.share=group",), ("objective.adaptive_scale=true",)
_FAST, _UNIFORM = ("learn.learning_rate=0.004",), ("learn.t_distribution=uniform",)
_TOGETHER = (*STEPS, *SHARED, *ADAPTIVE)
_LINEAR = ("policy.lora_targets=linear",)
_CLOSER = (*_TOGETHER, "policy.average_decay=0.5")  # what is evaluated lags less
LEVERS: dict[str, tuple[str, ...]] = {
    "start": _FAST,
    "4 steps": STEPS,
    "4 steps, shared, divided": _TOGETHER,
    "4 steps, shared, divided, 0.004": (*_TOGETHER, *_FAST),
    "4 steps, shared, divided, γ 0.25": (*_TOGETHER, "objective.gamma=0.25"),
    "4 steps, shared, divided, groups of 24": (
        *_TOGETHER,
        "rollout.images_per_prompt=24",
        "rollout.prompts_per_iteration=8",
    ),
    "4 steps, shared": (*STEPS, *SHARED),
    "4 steps, divided": (*STEPS, *ADAPTIVE),
    "4 steps, shared, divided, re-centred": (*_TOGETHER, "advantage.recenter=true"),
    "4 steps, shared, divided, cosine": (
        "learn.optimizer_steps=4",
        *SHARED,
        *ADAPTIVE,
        "learn.schedule=cosine",
        "learn.learning_rate=0.004",
    ),
    "4 steps, shared, divided, rollout policy at 0.5": (*_TOGETHER, "policy.rollout_decay=0.5"),
    "4 steps, shared, divided, average at 0": (*_TOGETHER, "policy.average_decay=0"),
    "4 steps, shared, divided, average at 0.5": _CLOSER,
    **{
        f"4 steps, shared, divided, average at 0.5, {name}": (*_CLOSER, *changes)
        for name, changes in {
            "linear layers": _LINEAR,
            "linear layers, 0.004": (*_LINEAR, *_FAST),
            "linear layers, 0.003, γ 0.25": (*_LINEAR, "learn.learning_rate=0.003", "objective.gamma=0.25"),
            "linear layers, rank 64": (*_LINEAR, "policy.lora_rank=64", "policy.lora_alpha=128"),
            "0.004": _FAST,
            "γ 0.25": ("objective.gamma=0.25",),
            "rollout policy at 0.5": ("policy.rollout_decay=0.5",),
            "all weights": ("policy.lora_rank=0", "learn.learning_rate=0.0003"),
            "β₂ 0.95": ("learn.beta2=0.95",),
            "8 steps": ("learn.optimizer_steps=8",),
            "groups of 24": ("rollout.images_per_prompt=24", "rollout.prompts_per_iteration=8"),
            "rank 128": ("policy.lora_rank=128", "policy.lora_alpha=256"),
            "own noise": ("learn.share=null",),
            "t below 0.8": (*_UNIFORM, "learn.t_range=[0,0.8]"),
        }.items()
    },
    "8 steps, shared, divided": (
        "learn.optimizer_steps=8",
        *SHARED,
        *ADAPTIVE,
        "learn.learning_rate=0.002",
    ),
    "shared noise": (*SHARED, *_FAST),
    "divided by errors": (*ADAPTIVE, *_FAST),
    "uniform t": (*_UNIFORM, *_FAST),
    "t above 0.5": (*_UNIFORM, "learn.t_range=[0.5,1]", *_FAST),
    "t below 0.6": (*_UNIFORM, "learn.t_range=[0,0.6]", *_FAST),
    "2 draws": ("learn.t_draws=2", *_FAST),
    "8 draws": ("learn.t_draws=8", *_FAST),
    "γ 0.25": ("objective.gamma=0.25", *_FAST),
    "γ 1-A": ("objective.gamma=1-A", *_FAST),
    "λ 0": ("objective.reference_weight=0", *_FAST),
    "ranks": ("advantage.normalize=group_rank", *_FAST),
    "re-centred": ("advantage.recenter=true", *_FAST),
    "clip at 3": ("advantage.clip=3", *_FAST),
    "groups of 6": ("rollout.images_per_prompt=6", "rollout.prompts_per_iteration=32", *_FAST),
    "groups of 24": ("rollout.images_per_prompt=24", "rollout.prompts_per_iteration=8", *_FAST),
    "rollout policy at 0.5": ("policy.rollout_decay=0.5", *_FAST),
    "rollout policy at 0.9": ("policy.rollout_decay=0.9", *_FAST),
    "average at 0": ("policy.average_decay=0", *_FAST),
    "average at 0.5": ("policy.average_decay=0.5", *_FAST),
    "drafts": ("rollout.drafts=2", "rollout.drafting_steps=4", *_FAST),
    "6 rollout steps": ("rollout.num_inference_steps=6", *_FAST),
    "cosine from 0.008": ("learn.schedule=cosine", "learn.learning_rate=0.008"),
    "β₂ 0.95": ("learn.beta2=0.95", *_FAST),
    "no weight decay": ("learn.weight_decay=0", *_FAST),
    "rank 8": ("policy.lora_rank=8", "policy.lora_alpha=16", *_FAST),
    "rank 64": ("policy.lora_rank=64", "policy.lora_alpha=128", *_FAST),
    "rank 128": ("policy.lora_rank=128", "policy.lora_alpha=256", *_FAST),
    "all weights": ("policy.lora_rank=0", "learn.learning_rate=0.0003"),
}


def lever(name: str) -> str:
    """The label of a lever's runs."""
    return f"lever: {name}"


def settings_of(name: str) -> tuple[str, ...]:
    """All that a lever changes of the recipe; what is said later wins."""
    found = dict(change.split("=", 1) for change in (*START, *LEVERS[name]))
    return tuple(f"{key}={value}" for key, value in found.items())
