"""What a method is: a frozen dataclass of its settings, what it needs, and its formula over one record.

A forward-process method (`Forward`) sees predictions at freshly noised images, a reverse-process method (`Reverse`)
the recorded transitions of a sampler, and a `Gradient` method the reward itself; `_records` has what these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from advantageflow.decay import Decay
from advantageflow.objectives._records import Controlled as Controlled
from advantageflow.objectives._records import Noised as Noised
from advantageflow.objectives._records import Sampled as Sampled
from advantageflow.objectives._records import Start as Start
from advantageflow.objectives._records import Transition as Transition
from advantageflow.objectives._records import check_shapes, check_times
from advantageflow.objectives._records import clipped_surrogate as clipped_surrogate
from advantageflow.objectives._records import divergence as divergence
from advantageflow.objectives._records import error_scale as error_scale
from advantageflow.objectives._records import mean_square as mean_square
from advantageflow.objectives._records import ppo as ppo
from advantageflow.objectives._records import shortfall as shortfall
from advantageflow.objectives._records import total as total
from advantageflow.objectives._records import with_gradient_at as with_gradient_at
from advantageflow.walk_plan import Plan, chain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from advantageflow.config import Config
    from advantageflow.walks import Edges

LARGE = 1e8  # beyond any sensible setting; keeps products finite
Positive = Annotated[float, Gt(0), Le(LARGE)]
NonNegative = Annotated[float, Ge(0), Le(LARGE)]
Real = Annotated[float, Ge(-LARGE), Le(LARGE)]


@dataclass(frozen=True)
class Method:
    """The base of all methods; derive from `Forward`, `Reverse` or `Gradient`.

    title, paper: what the method is called, and where it is from.
    claim: what is said there, or of it elsewhere, of what it reaches; "" where we know of nothing.
    aliases: further names that recipes may use.
    short: the setting that a comparison's `name-value` means, and its symbol; None where there is none.
    colors: in figures, on light and on dark paper, by the value of that setting, or for ""; others by the title.
    defaults: settings of a run, by key, where a recipe is silent.
    solvers: which it can learn from; () for all of its family.
    whole_groups: the loss couples the images of a prompt: a batch never cuts a group, whose images are noised at the
        same times.
    shared_noise: the images of a prompt are noised at the same times, by the same noise.
    straight: its steps are those of the straight path between image and noise, and of no other.
    average_velocity: it learns one, over spans of time; then a prediction is the velocity that it induces.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    family: ClassVar[Literal["forward", "reverse", "gradient"]]
    title: ClassVar[str]
    paper: ClassVar[str]
    claim: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    short: ClassVar[tuple[str, str] | None] = None
    colors: ClassVar[Mapping[str, tuple[str, str]]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    solvers: ClassVar[tuple[str, ...]] = ()
    whole_groups: ClassVar[bool] = False
    shared_noise: ClassVar[bool] = False
    straight: ClassVar[bool] = False
    average_velocity: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As recipes write it: the file's name in this folder, or package.module:Class."""
        folder, _, module = type(self).__module__.rpartition(".")
        own = folder == __name__.rpartition(".")[0]
        return module.replace("_", "-") if own else f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def sees(self) -> frozenset[str]:
        """Roles beside the learner whose predictions the formula reads; no others are computed."""
        return frozenset()

    @property
    def slow(self) -> Mapping[str, Decay]:
        """Further slow copies of the weights, by role, beside the rollout policy."""
        return {}

    @property
    def guidance(self) -> Mapping[str, float]:
        """Classifier-free guidance of a role's predictions while learning; 1, which is none, where it is silent."""
        return {}

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan | None:
        """How images are drawn; None is by the recipe's ODE solver.

        Args:
            steps: of the sampler.
            level: `rollout.noise_level`.
            transitions: learn from the first so many at most; None is for all.
        """
        return None

    def credit(self, rewards: Tensor, groups: Tensor, edges: Edges | None, settings: Mapping[str, Any]) -> Tensor:
        """Advantages, float64 [images], or [edges] where transitions are learned from.

        Args:
            rewards, groups: [images], see `advantages.group_advantages`.
            settings: the recipe's section `advantage`.
        """
        from advantageflow.advantages import group_advantages

        return group_advantages(rewards, groups, **settings)

    def taught(self, size: int) -> int:
        """Of a prompt's `size` images, how many are learned from; a forward method says in `chosen` which."""
        return size

    def calls(self, steps: int) -> int:
        """Calls of the transformer with gradient for each case; `steps` are the sampler's."""
        return 1

    def calls_of_others(self, steps: int) -> int:
        """Calls of the transformer by each other role that it sees, for each case."""
        return 1

    def critic(self, channels: int) -> nn.Module | None:
        """A head (x_t, t) -> value [batch] that is trained with the learner; None is for none."""
        return None

    def check(self, config: Config) -> None:
        """Refuse a recipe that the method cannot learn by.

        Raises:
            ValueError: a sentence that names the key.
        """

    def terms(self, seen: Any) -> dict[str, Tensor]:
        """The loss's named terms over a record, [batch] each; the loss is their sum."""
        raise TypeError(f"{type(self).__name__} does not define its terms")


@dataclass(frozen=True)
class Forward(Method):
    """A loss on a clean image, noised afresh; with a `plan`, which has no noise, at states that it keeps."""

    family: ClassVar[Literal["forward", "reverse", "gradient"]] = "forward"

    def chosen(self, rewards: Tensor) -> list[int]:
        """Which of a prompt's images, by their rewards, are learned from: `taught` of them, in order."""
        return [*range(len(rewards))]

    def loss(
        self,
        velocity: Tensor,
        rollout_velocity: Tensor | None = None,
        reference_velocity: Tensor | None = None,
        *,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        advantage: Tensor,
    ) -> Tensor:
        """Loss of each sample, [batch]: the sum of `terms`, the samples being of one prompt.

        Args:
            velocity: v_θ(x_t, t), with gradient, [batch, ...].
            rollout_velocity, reference_velocity: v_old and v_ref, of the rollout policy (or of the slow copy that the
                method has in its place) and of the base model; None where the method does not see them.
            x0, x_t: the clean and the noised image, [batch, ...].
            t: times in [0, 1], scalar or [batch].
            advantage: [batch].

        Raises:
            ValueError: shapes do not match, or a time is outside [0, 1].
        """
        others = {"rollout_velocity": rollout_velocity, "reference_velocity": reference_velocity}
        given = {name: value for name, value in others.items() if value is not None}
        check_shapes({"velocity": velocity, **given, "x0": x0, "x_t": x_t}, advantage=advantage)
        check_times(t, len(velocity))
        predictions = {"learner": velocity}
        if reference_velocity is not None:
            predictions["reference"] = reference_velocity
        if rollout_velocity is not None:
            predictions |= dict.fromkeys({"rollout", *self.sees} - {"reference"}, rollout_velocity)
        group = advantage.new_zeros(len(advantage)).long()  # all of one
        return total(self.terms(Noised(predictions, x0, x_t, t, advantage, group=group)))


@dataclass(frozen=True)
class Reverse(Method):
    """A loss on the transitions of an SDE sampler."""

    family: ClassVar[Literal["forward", "reverse", "gradient"]] = "reverse"
    straight: ClassVar[bool] = True

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan | None:
        """Noise in every step. The last transition adds almost none and is not learned from."""
        return chain([level] * steps, range(min(transitions or steps, steps - 1)))

    def credit(self, rewards: Tensor, groups: Tensor, edges: Edges | None, settings: Mapping[str, Any]) -> Tensor:
        """A transition's advantage is the mean of those of the images that it led to."""
        assert edges is not None
        return edges.leaf_means(super().credit(rewards, groups, edges, settings))

    def learned(self, edges: Edges, advantages: Tensor, iteration: int) -> Tensor:
        """Which transitions are learned from, bool [edges]."""
        return edges.step >= 0

    def loss(
        self,
        log_prob: Tensor,
        rollout_log_prob: Tensor,
        mean: Tensor,
        reference_mean: Tensor,
        *,
        diffusion: Tensor,
        advantage: Tensor,
    ) -> Tensor:
        """Loss of each transition, [batch]: the sum of `terms`.

        Args:
            log_prob, rollout_log_prob: of a transition under the learner and under the policy that drew it, [batch].
            mean, reference_mean: the transition's mean under the learner and the base model, [batch, ...].
            diffusion: g, the SDE's coefficient at the transition, scalar or [batch].
            advantage: [batch], not yet clipped.

        Raises:
            ValueError: shapes do not match, or a diffusion coefficient is not positive.
        """
        check_shapes(
            {"mean": mean, "reference_mean": reference_mean},
            log_prob=log_prob,
            rollout_log_prob=rollout_log_prob,
            advantage=advantage,
        )
        if diffusion.ndim and diffusion.shape != log_prob.shape:
            raise ValueError(
                f"diffusion has the shape {list(diffusion.shape)}; give a number, or one per sample, [{len(log_prob)}]"
            )
        if not (diffusion > 0).all():
            raise ValueError("diffusion must be positive: the log-probability of a step without noise is not finite")
        means = {"learner": mean, "reference": reference_mean}
        return total(self.terms(Transition(log_prob, rollout_log_prob, means, diffusion, advantage)))


@dataclass(frozen=True)
class Gradient(Method):
    """A loss on the reward itself, whose gradient goes through the sampler."""

    family: ClassVar[Literal["forward", "reverse", "gradient"]] = "gradient"
    solvers: ClassVar[tuple[str, ...]] = ("euler",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "rollout.solver": "euler",
        "policy.rollout_decay": 0,
        "learn.t_draws": 1,
    }

    def starts(self, steps: int) -> range:
        """The steps of the sampler from whose state a gradient may begin; each case draws one."""
        raise TypeError(f"{type(self).__name__} does not define its starts")

    def pictures(self) -> int:
        """Images that `images` gives for each case: so many are decoded and scored with gradient."""
        return 1

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan | None:
        """The ODE; the states that `recorded` names are kept."""
        return chain([0.0] * steps, self.recorded(steps))

    def recorded(self, steps: int) -> range:
        """The steps whose states `images` may read; by default those that a gradient may begin at."""
        return self.starts(steps)

    def images(self, start: Start) -> Iterator[Tensor]:
        """Latents [batch, ...] with gradient; the loss is the mean over all that are given."""
        raise TypeError(f"{type(self).__name__} does not define its images")

    def look(self, start: Start, reward: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The formula's terms, [batch] each: of the reward of `images`, unless a method looks at something else.

        Args:
            reward: latents [batch, ...] -> [batch], with gradient.
        """
        import torch

        return self.terms(Sampled(torch.stack([reward(latents) for latents in self.images(start)]).mean(0)))


def check_last_steps(last_steps: int, config: Config) -> None:
    """Raise ValueError unless the sampler has so many steps."""
    steps = config.rollout.num_inference_steps
    if last_steps > steps:
        raise ValueError(f"objective.last_steps is {last_steps}; the sampler has only {steps} steps")
