"""What a whole run would take, from what one iteration took, by counting calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advantageflow.config import Config
from advantageflow.memory import ModelFacts, changed, facts_of, parts, stages
from advantageflow.models import BUILT_IN
from advantageflow.plan import evaluated_images, make_plan


@dataclass(frozen=True)
class Measured:
    """Of one iteration, in seconds and GB.

    Args:
        seconds, cpu_seconds, peaks: by stage.
        parts: what weights take, by part.
        prompts: how many were embedded.
        reward_seconds: of each reward for a picture.
        adapter_layers: that were exported and loaded by diffusers; 0 without LoRA.
        trained: parameters.
        in_turn: whether the text encoders were dropped before all else was built.
        notes: what was not rehearsed.
    """

    device: str
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    peaks: Mapping[str, float]
    parts: Mapping[str, float]
    prompts: int
    reward_seconds: Mapping[str, float]
    adapter_layers: int
    trained: int
    in_turn: bool
    notes: list[str]


@dataclass(frozen=True)
class Row:
    """A stage: what was done how often, what it took, and what all of the whole run would take, in hours."""

    stage: str
    count: int
    unit: str
    seconds: float
    whole: int
    hours: float


def planned(facts: ModelFacts, config: Config, in_turn: bool) -> dict[str, float]:
    """GB at the peak of each stage, as `--plan` estimates them.

    Args:
        in_turn: text encoders are gone when all else comes.
    """
    if not in_turn:
        return stages(facts, config)
    found = stages(facts, changed(config, [("model", "offload", True)]))
    rewards, vae = (parts(facts, config)[name] for name in ("rewards", "VAE"))
    return {
        stage: peak - rewards + vae if stage == "text encoding" else peak + vae if stage != "decoding" else peak
        for stage, peak in found.items()
    }


def reckon(measured: Measured, rehearsed: Config, config: Config) -> list[Row]:
    """Each stage of the iteration and of the whole run, evaluations included; saving and starting are not."""
    part, whole, iterations = make_plan(rehearsed), make_plan(config), config.run.iterations
    evaluated, evaluation = evaluated_images(config), config.evaluation
    steps = evaluation.num_inference_steps * (2 if evaluation.guidance_scale != 1 else 1)
    drawn = whole.images * iterations + evaluated
    seconds = measured.seconds
    counts = [
        ("text encoding", measured.prompts, "prompts", config.rollout.prompts_per_iteration * iterations + evaluated),
        ("sampling", part.sampling_calls, "calls", whole.sampling_calls * iterations + evaluated * steps),
        ("decoding", part.images, "images", drawn),
        ("learning", part.learning_calls, "calls", whole.learning_calls * iterations),
    ]
    rows = [_row(stage, count, unit, seconds.get(stage, 0.0), total) for stage, count, unit, total in counts]
    learned = set(config.reward_weights)
    for name, each in measured.reward_seconds.items():
        total = whole.images * iterations * (name in learned)
        total += evaluated * (name in config.evaluation.rewards.values())
        rows.append(_row(f"scoring, {name}", part.images, "images", each * part.images, total))
    return rows


def _row(stage: str, count: int, unit: str, seconds: float, whole: int) -> Row:
    return Row(stage, count, unit, seconds, whole, seconds / count * whole / 3600 if count else 0.0)


PEAKS = {"scoring": "scoring and sampling"}  # what the plan calls a stage


def figures(measured: Measured, rehearsed: Config, config: Config) -> dict[str, Any]:
    """All of it as plain data, for `--json`."""
    path = config.model.base or config.model.path
    facts, rows = facts_of(config), reckon(measured, rehearsed, config)
    assert facts is not None  # which `shorten` has checked
    estimate, sizes = planned(facts, rehearsed, measured.in_turn), parts(facts, rehearsed)
    rollout = rehearsed.rollout
    return {
        "recipe": config.name,
        "model": path,
        "device": measured.device,
        "weights": "its own" if path in BUILT_IN else "random",
        "rehearsed": {
            "images": rollout.prompts_per_iteration * rollout.images_per_prompt,
            "steps": rollout.num_inference_steps,
            "draws": rehearsed.learn.t_draws,
        },
        "stages": [
            {
                "stage": row.stage,
                "count": row.count,
                "unit": row.unit,
                "seconds": row.seconds,
                "whole_run": {"count": row.whole, "hours": row.hours},
            }
            for row in rows
        ],
        "whole_run_hours": sum(row.hours for row in rows),
        "cpu_seconds": {stage: taken for stage, taken in measured.cpu_seconds.items() if stage},
        "building_seconds": measured.seconds.get("building", 0.0),
        "peak_gb": {
            stage: {"measured": measured.peaks[stage], "planned": estimate[PEAKS.get(stage, stage)]}
            for stage in ("text encoding", "sampling", "decoding", "scoring", "learning")
            if stage in measured.peaks
        },
        "parts_gb": {part: {"measured": size, "planned": sizes[part]} for part, size in measured.parts.items()},
        "text_encoders_dropped": measured.in_turn,
        "adapter": {"layers": measured.adapter_layers, "parameters": measured.trained},
        "whole_run_peak_gb": max(stages(facts, config).values()),
        "notes": measured.notes,
    }
