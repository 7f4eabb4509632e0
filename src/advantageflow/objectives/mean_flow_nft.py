"""MeanFlowNFT (arXiv 2607.15273): DiffusionNFT of a model that draws in a few steps by average velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from advantageflow.objectives.base import NonNegative, Positive
from advantageflow.objectives.diffusion_nft import DiffusionNFT as _DiffusionNFT


@dataclass(frozen=True)
class MeanFlowNFT(_DiffusionNFT):
    """DiffusionNFT's loss, in the velocities that average velocities u induce.

        V = u(x_t, t, r) + (t - r) d/dt u_old(x_t, t, r)
        V± = V_old ± β (V_θ - V_old)        f± = x_t - t V±        w± = max(mean |f± - x0|, 1e-5), held constant
        ρ = clip(z, -c, c) / (2c) + 1/2
        loss = (c/β) [ ρ ‖f+ - x0‖² / w+  +  (1 - ρ) ‖f- - x0‖² / w- ]  +  λ ‖V_θ - V_ref‖²

    u(x_t, t, r) leads from x_t to x_r = x_t - (t - r) u in one step. Its slope along the path to the image's own noise
    is the rollout policy's, is shared by all roles, and is taken between the times t ± .005. Of the spans from t to r
    half have no length, a quarter end at the image, and the others lie between two draws of the recipe's times.

    Args:
        beta: β, how far the implicit policies lie from the rollout policy; smaller learns faster.
        reference_weight: λ.
        advantage_clip: c.
        adaptive_scale: with False, w± = 1.

    Departs from the code in: the slope is taken between t and t - .005 at t = 1, instead of beyond; `learn.t_draws` and
    `learn.t_distribution` say at how many and which times; and in what DiffusionNFT here departs from its own.
    """

    title: ClassVar[str] = "MeanFlowNFT"
    paper: ClassVar[str] = "arXiv 2607.15273"
    claim: ClassVar[str] = "four steps: ImageReward 1.446, PickScore 23.50, as measured in MeanFlowAdvantage's paper"
    aliases: ClassVar[tuple[str, ...]] = ()
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#4f7a28", "#a5d178")}
    defaults: ClassVar[dict[str, Any]] = {
        **_DiffusionNFT.defaults,
        "rollout.solver": "euler",
        "rollout.num_inference_steps": 4,
        "evaluation.num_inference_steps": 4,
        "learn.t_draws": 4,
    }
    average_velocity: ClassVar[bool] = True
    solvers: ClassVar[tuple[str, ...]] = ("euler",)

    beta: Positive = 0.1
    reference_weight: NonNegative = 1e-4
