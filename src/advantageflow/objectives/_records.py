"""What formulas see, and the small functions that they share.

Half precision is cast up, and everything but the learner's part is detached, here and once, when a record is made.
Functions import torch when they are called, so that a recipe is checked, and its cost told, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from advantageflow.flow import Path


def _rectified() -> Path:
    from advantageflow.flow import RECTIFIED

    return RECTIFIED


def _read(values: Mapping[str, Tensor], role: str) -> Tensor:
    if role not in values:
        raise AttributeError(
            f"the formula reads what {role!r} predicts, but its `sees` names only {sorted({*values} - {'learner'})}; "
            f"add {role!r} there"
        )
    return values[role]


@dataclass
class _Record:
    """Predictions by role; reading one that was not asked for is an error of the formula."""

    predictions: Mapping[str, Tensor]

    def of(self, role: str) -> Tensor:
        """The role's velocity [batch, ...].

        Raises:
            AttributeError: the method's `sees` does not name the role.
        """
        return _read(self.predictions, role)

    @property
    def v(self) -> Tensor:
        """The learner's velocity, with gradient."""
        return self.of("learner")

    @property
    def v_old(self) -> Tensor:
        return self.of("rollout")

    @property
    def v_ref(self) -> Tensor:
        return self.of("reference")


@dataclass
class Noised(_Record):
    """What a forward-process formula sees of a batch of noised images.

    predictions: role -> velocity [batch, ...].
    x0, x_t: the clean and the noised image [batch, ...], or a state that its sampler went through.
    t: times in [0, 1], scalar or [batch].
    advantage: [batch].
    noise: [batch, ...]; None where only x0 and x_t are known.
    reward: of the image, [batch].
    group: [batch] integers, equal for images of one prompt in the same draw.
    value: the critic's, [batch], with gradient.
    step: optimizer steps so far, for schedules.
    """

    x0: Tensor
    x_t: Tensor
    t: Tensor
    advantage: Tensor
    noise: Tensor | None = None
    reward: Tensor | None = None
    group: Tensor | None = None
    value: Tensor | None = None
    step: int = 0
    path: Path = field(default_factory=_rectified)

    def __post_init__(self) -> None:
        self.predictions = {
            role: full_precision(v) if role == "learner" else full_precision(v).detach()
            for role, v in self.predictions.items()
        }
        self.x0, self.x_t = full_precision(self.x0), full_precision(self.x_t)
        self.advantage = self.advantage.to(self.v.dtype)

    @property
    def target(self) -> Tensor:
        """The velocity between this image and this noise, which the learner would have to predict alone."""
        noise = self.path.noise_between(self.x0, self.x_t, self.t) if self.noise is None else full_precision(self.noise)
        return self.path.velocity(self.x0, noise, self.t)

    @property
    def same_group(self) -> Tensor:
        """1 where two images are of one prompt in the same draw, else 0: [batch, batch] in the learner's precision."""
        assert self.group is not None
        return (self.group[:, None] == self.group[None]).to(self.v.dtype)

    def f_of(self, role: str) -> Tensor:
        """The clean image that the role predicts, [batch, ...]."""
        return self.path.predict_x0(self.x_t, self.of(role), self.t)

    @property
    def f(self) -> Tensor:
        """The learner's, with gradient."""
        return self.f_of("learner")

    @property
    def f_old(self) -> Tensor:
        return self.f_of("rollout")

    @property
    def f_ref(self) -> Tensor:
        return self.f_of("reference")


@dataclass
class Transition:
    """What a reverse-process formula sees of a batch of transitions x -> next_x.

    log_prob, log_prob_old: under the learner and under the policy that drew them, [batch].
    means: role -> the transition's mean [batch, ...].
    diffusion: the SDE's coefficient g, scalar or [batch]; the transition's std is g sqrt(sigma - sigma_next).
    advantage, step: [batch]; step is the sampler's.
    """

    log_prob: Tensor
    log_prob_old: Tensor
    means: Mapping[str, Tensor]
    diffusion: Tensor
    advantage: Tensor
    std: Tensor | None = None
    sigma: Tensor | None = None
    sigma_next: Tensor | None = None
    step: Tensor | None = None

    def __post_init__(self) -> None:
        self.log_prob, self.log_prob_old = full_precision(self.log_prob), full_precision(self.log_prob_old).detach()
        self.means = {
            role: full_precision(mean) if role == "learner" else full_precision(mean).detach()
            for role, mean in self.means.items()
        }
        self.advantage = self.advantage.to(self.log_prob.dtype)
        self.diffusion = self.diffusion.to(self.log_prob.dtype).to(self.log_prob.device)

    @property
    def mean(self) -> Tensor:
        """The transition's mean under the learner, with gradient, [batch, ...]."""
        return _read(self.means, "learner")

    @property
    def mean_old(self) -> Tensor:
        return _read(self.means, "rollout")

    @property
    def mean_ref(self) -> Tensor:
        return _read(self.means, "reference")


@dataclass
class Controlled:
    """What a formula of optimal control sees of a batch of transitions.

    mean, mean_ref: under the learner, with gradient, and under the base model, [batch, ...].
    std: the transition's, [batch].
    width: of the step in time, [batch].
    adjoint: how the cost of the image changes with the state after it, [batch, ...].
    """

    mean: Tensor
    mean_ref: Tensor
    std: Tensor
    width: Tensor
    adjoint: Tensor


@dataclass
class Sampled:
    """What a formula of a differentiable reward sees: the rewards [batch], with gradient."""

    reward: Tensor


@dataclass(frozen=True)
class Start:
    """Where a gradient begins: recorded states, and how to go on from them.

    x: [batch, ...].
    step: the sampler's step of each, [batch].
    sigmas: the sampler's times, [steps + 1].
    path: between image and noise, the model's.
    velocity: (x, t) -> the learner's velocity, with gradient; t is a scalar or [batch].
    fresh: (number) -> standard normal noise [batch, ...], another for each number.
    state: (steps [batch]) -> the states that were recorded before these steps [batch, ...], without gradient; after the
        last step it is the image.
    uniform: (count) -> numbers in [0, 1), float64 [batch, count] on the CPU.
    move: (v, x, steps [batch]) -> (mean [batch, ...], std [batch]) of the sampler's transitions from x.
    base: a context in which there is the base model's velocity, like `velocity`.
    """

    x: Tensor
    step: Tensor
    sigmas: Tensor
    velocity: Callable[[Tensor, Tensor], Tensor]
    fresh: Callable[[int], Tensor]
    state: Callable[[Tensor], Tensor]
    uniform: Callable[[int], Tensor]
    move: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    base: Callable[[], AbstractContextManager[Callable[[Tensor, Tensor], Tensor]]]
    path: Path = field(default_factory=_rectified)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss [batch] of named terms."""
    import torch

    return torch.stack(list(terms.values())).sum(0)


def with_gradient_at(start: Start, steps: Tensor) -> Tensor:
    """What moves an image when its velocities at some steps do: Σ (σ' - σ)(v_θ(x, σ) - sg v_θ), [batch, ...].

    It is zero, and has the gradient of Euler's steps from the recorded states, held constant. So gradients of several
    steps add up instead of going through one another.

    Args:
        steps: of each image, [batch, number].
    """
    from advantageflow.flow import like

    moved: Tensor | float = 0.0
    for step in steps.T:
        v = start.velocity(start.state(step), start.sigmas[step])
        moved = moved + like(start.sigmas[step + 1] - start.sigmas[step], v) * (v - v.detach())
    assert not isinstance(moved, float)
    return moved


def check_shapes(alike: Mapping[str, Tensor], **by_sample: Tensor) -> None:
    """Raise ValueError unless the tensors `alike` have one shape [batch, ...], and the others are [batch]."""
    (first, expected), *others = ((name, list(value.shape)) for name, value in alike.items())
    if len(expected) < 2:
        raise ValueError(f"{first} has the shape {expected}; it must be [batch, ...]")
    for name, shape in others:
        if shape != expected:
            raise ValueError(f"{name} has the shape {shape}, but {first} has {expected}; they must be equal")
    for name, value in by_sample.items():
        if list(value.shape) != expected[:1]:
            raise ValueError(f"{name} has the shape {list(value.shape)}; one number per sample is [{expected[0]}]")


def check_times(t: Tensor | float, batch: int) -> None:
    """Raise ValueError unless t is a scalar or [batch], in [0, 1]; schedulers' 0 to 1000 must be divided by 1000."""
    import torch

    times = torch.as_tensor(t)
    if times.ndim and list(times.shape) != [batch]:
        raise ValueError(f"t has the shape {list(times.shape)}; give a number, or one per sample, [{batch}]")
    if not ((times >= 0) & (times <= 1)).all():
        raise ValueError(
            f"t goes from {times.min().item():g} to {times.max().item():g}; it must lie in [0, 1], 0 being the image "
            "and 1 noise (divide a scheduler's timesteps by 1000)"
        )


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision as float32, so that differences of near-equal predictions survive; the rest as it is."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def mean_square(difference: Tensor) -> Tensor:
    """Mean over all but the batch dimension of the square: [batch, ...] -> [batch]."""
    return difference.square().flatten(1).mean(1)


def error_scale(error: Tensor) -> Tensor:
    """Mean absolute error, at least 1e-5 and held constant: [batch, ...] -> [batch]; an adaptive loss divides by it."""
    return error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def divergence(seen: Transition) -> Tensor:
    """‖μ_θ - μ_ref‖² / (2 s²), of the transition from the base model's: [batch]."""
    return mean_square(seen.mean - seen.mean_ref) / (2 * seen.diffusion**2)


def shortfall(reward: Tensor, enough: float | None) -> Tensor:
    """max(enough - r, 0), or -r where nothing is enough: [batch]."""
    return -reward if enough is None else (enough - reward).clamp(min=0)


def clipped_surrogate(seen: Transition, clip_range: float, advantage_clip: float) -> Tensor:
    """PPO's max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)), ρ = exp(log p_θ - log p_old), A clipped to ±c: [batch].

    Log-probabilities are means over the image (see `solvers.gaussian_log_prob`): ratios stay near 1 and ε is small.
    """
    advantage = seen.advantage.clamp(-advantage_clip, advantage_clip)
    return ppo(advantage, (seen.log_prob - seen.log_prob_old).exp(), clip_range)


def ppo(advantage: Tensor, ratio: Tensor, clip_range: float) -> Tensor:
    """max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)): [batch]."""
    return (-advantage * ratio).maximum(-advantage * ratio.clamp(1 - clip_range, 1 + clip_range))
