"""MeanFlowAdvantage (arXiv 2609.37670): AdvantageFlow of a model that draws in a few steps by average velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from advantageflow.objectives.advantageflow import AdvantageFlow as _AdvantageFlow


@dataclass(frozen=True)
class MeanFlowAdvantage(_AdvantageFlow):
    """AdvantageFlow's loss, in the clean images that average velocities u induce.

        V = u(x_t, t, r) + (t - r) d/dt u_old(x_t, t, r),        F = x_t - t V
        loss = [ β A ‖F_θ - x0‖² + γ ‖F_θ - F_old‖² + λ ‖F_θ - F_ref‖² ] / w
        w = max(mean |F_θ - x0|, 1e-5), held constant

    u(x_t, t, r) leads from x_t to x_r = x_t - (t - r) u in one step. Its slope along the path to the image's own noise
    is the rollout policy's and is shared by all roles, so that the optimum for a constant γ is the average velocity of
    images weighted by γ + A. It is taken between the times t ± .005. Of the spans from t to r half have no length, a
    quarter end at the image, and the others lie between two draws of the recipe's times.

    Args:
        gamma: γ, the weight of the rollout term: a number (the paper's 1.1), "1-A" or "auto", as in AdvantageFlow.
        beta: β; the paper has none, which is 1.
        reference_weight: λ.
        adaptive_scale: with False, w = 1.

    Departs from the paper in: means instead of sums over the image; w has the precision of its input; how spans are
    drawn and where slopes are taken is as in the code of arXiv 2607.15273, since no other was found.
    """

    title: ClassVar[str] = "MeanFlowAdvantage"
    paper: ClassVar[str] = "arXiv 2609.37670"
    claim: ClassVar[str] = "four steps: ImageReward 1.451, PickScore 23.63 (DiffusionNFT in 40 steps 1.426, 23.55)"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"1.1": ("#8a5a00", "#e8b45a"), "1-A": ("#5b4fb3", "#b3a9f2")}
    defaults: ClassVar[dict[str, Any]] = {
        **_AdvantageFlow.defaults,
        "rollout.solver": "euler",
        "rollout.num_inference_steps": 4,
        "evaluation.num_inference_steps": 4,
        "learn.t_draws": 4,
    }
    average_velocity: ClassVar[bool] = True
    solvers: ClassVar[tuple[str, ...]] = ("euler",)

    adaptive_scale: bool = True
