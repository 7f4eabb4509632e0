"""Better images from the same weights: of several candidates the one that a reward chooses.

With temperature a, both ways draw from p(x0) exp(r(x0) / a) in the limit of many candidates (Uehara et al., arXiv
2407.13734, Theorem 1); at a = 0 they take the best. A way is a solver: of the noise of an image it makes that image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advantageflow.errors import ConfigError
from advantageflow.flow import RECTIFIED, Path, like, predict_x0
from advantageflow.rewards import Reward
from advantageflow.rewards.answers import Metadata
from advantageflow.rewards.scoring import score
from advantageflow.seeding import Stream, generator, noise
from advantageflow.solvers import Velocity, euler, sde_step

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

WAYS = ("best", "svdd")
# Steps that candidates come from. Only where an image depends on its first noise through the states between them
# alone (it is memoryless) is the soft value of a state that of the noising process, and the result the tilt.
NOISY, LEVEL = "memoryless", 1.0
Offer = tuple[Tensor, tuple[Tensor, ...]]  # values [batch], and what they are of, each [batch, ...]
Fresh = Callable[[int, int], Tensor]  # (step, candidate) -> standard normal noise [batch, ...]
Chooser = Callable[[int, Iterable[Offer]], tuple[Tensor, ...]]  # (step, its candidates) -> what was chosen


def choose(offers: Iterable[Offer], temperature: float, gumbel: Callable[[int], Tensor]) -> tuple[Tensor, ...]:
    """Of candidates that come one after another, one for each row, with probability ∝ exp(value / temperature).

    Args:
        temperature: 0 is the best one, the first of equal ones.
        gumbel: number of a candidate -> standard Gumbel noise [batch]; what is largest after adding it, is chosen.
    """
    best: Tensor | None = None
    chosen: tuple[Tensor, ...] = ()
    for number, (values, offered) in enumerate(offers):
        keys = values / temperature + gumbel(number) if temperature else values
        if best is None:
            best, chosen = keys, offered
            continue
        better = keys > best
        best = torch.where(better, keys, best)
        chosen = tuple(
            torch.where(better.view(-1, *[1] * (new.dim() - 1)).to(new.device), new, old)
            for new, old in zip(offered, chosen, strict=True)
        )
    return chosen


def best_of(
    velocity: Velocity,
    starts: Iterable[Tensor],
    sigmas: Tensor,
    value: Callable[[Tensor], Tensor],
    chooser: Chooser,
    path: Path = RECTIFIED,
) -> Tensor:
    """Best of N: whole images from several noises, each [batch, ...].

    Args:
        value: of images x0, [batch].
        path: of the steps, see `solvers.euler`.
    """
    images = (euler(velocity, start, sigmas, path=path) for start in starts)
    (x0,) = chooser(0, ((value(x0), (x0,)) for x0 in images))
    return x0


def svdd(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    value: Callable[[Tensor, Tensor, Tensor], Tensor],
    candidates: int,
    fresh: Fresh,
    chooser: Chooser,
    *,
    kind: str = NOISY,
    level: float = LEVEL,
) -> Tensor:
    """SVDD (Li et al., arXiv 2408.08252, Algorithm 1): of several next states the one with the best soft value.

    The last step is Euler's. A step costs a call of the network for each candidate, and none beside these.

    Args:
        value: (x, velocity at x, its time) -> the soft value v_t(x) = a log E[exp(r(x0) / a) | x_t = x], [batch].
        kind, level: of the steps' noise, see `solvers.sde_step`.
    """

    def offers(step: int, mean: Tensor, std: Tensor, sigma: Tensor) -> Iterator[Offer]:
        for candidate in range(candidates):
            drawn = mean + like(std, mean) * fresh(step, candidate)
            v = velocity(drawn, sigma)
            yield value(drawn, v, sigma), (drawn, v)

    v = velocity(x, sigmas[0])
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas[:-1])):
        x, v = chooser(step, offers(step, *sde_step(kind, v, x, sigma, sigma_next, level), sigma_next))
    return predict_x0(x, v, sigmas[-2])


@dataclass(frozen=True)
class Selection:
    """How images are selected.

    Args:
        way: "best": of `candidates` images; "svdd": of `candidates` states after every step, where a state's value is
            the reward of the clean image that it points to.
        name, reward: what selects.
        temperature: in the reward's units; 0 takes the best.
    """

    way: str
    name: str
    reward: Reward
    candidates: int = 8
    temperature: float = 0.0

    @property
    def facts(self) -> dict[str, object]:
        """What a picture says of its selection."""
        return {
            "select": self.way,
            "reward": self.name,
            "candidates": self.candidates,
            "temperature": self.temperature,
        }

    def solver(
        self, model: FlowModel, prompts: Sequence[str], metadata: Metadata, seed: int
    ) -> Callable[[Velocity, Tensor, Tensor, range], Tensor]:
        """(velocity, noise, sigmas, numbers of the images) -> images x0, for `rollout.sample_batches`.

        Raises:
            ConfigError: SVDD's steps are those of a rectified flow's velocity, and the model has another path or none.
        """
        if self.way == "svdd" and model.path is not RECTIFIED:
            raise ConfigError(
                f"--select svdd draws states of the straight path between image and noise, and {model.family} has "
                "another path; use --select best"
            )

        if self.way == "svdd" and model.predicts == "average_velocity":
            raise ConfigError(
                f"--select svdd has steps of the velocity at a time, and {model.family} predicts averages over whole "
                "steps; use --select best"
            )

        def solve(velocity: Velocity, x: Tensor, sigmas: Tensor, numbers: range) -> Tensor:
            texts, facts = prompts[numbers.start : numbers.stop], metadata[numbers.start : numbers.stop]

            def reward(x0: Tensor) -> Tensor:
                return score(self.name, self.reward, model.decode(x0).cpu(), texts, facts)

            def fresh(step: int, candidate: int) -> Tensor:
                address = (seed, 1 + step, candidate)  # those of an image without selection begin with (seed, 0)
                return noise(model.latent_shape, Stream.EVALUATION, address, [*numbers]).to(x)

            def chooser(step: int, offers: Iterable[Offer]) -> tuple[Tensor, ...]:
                def gumbel(candidate: int) -> Tensor:
                    places = [(seed, 1 + step, candidate, i) for i in numbers]
                    drawn = [torch.rand((), generator=generator(Stream.ORDER, *place)) for place in places]
                    return -torch.log(-torch.log(torch.stack(drawn).double()))

                return choose(offers, self.temperature, gumbel)

            if self.way == "best":
                starts = (fresh(0, candidate) if candidate else x for candidate in range(self.candidates))
                return best_of(velocity, starts, sigmas, reward, chooser, model.path)
            return svdd(
                velocity, x, sigmas, lambda x, v, t: reward(predict_x0(x, v, t)), self.candidates, fresh, chooser
            )

        return solve
