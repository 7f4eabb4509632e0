"""Calling rewards: checked pictures and answers, bounded waiting, and scoring that runs beside sampling."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as WaitedTooLong

import torch
from torch import Tensor

from advantageflow.errors import ConfigError, NonFiniteError, shown
from advantageflow.rewards import Reward
from advantageflow.rewards.answers import AnswerError, Metadata, ask
from advantageflow.rewards.faults import abandon, contained, definition, reason
from advantageflow.world import World

LOOK_SECONDS = 0.2  # between two looks whether to stop


class RewardError(ConfigError):
    """A reward that does not give one finite number per image, in time."""


def score(
    name: str,
    reward: Reward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Metadata | None = None,
    *,
    attempts: int = 1,
    timeout: float | None = None,
) -> Tensor:
    """Call a reward and check its answer: float64 [batch]. What it does to its arguments reaches nobody else.

    Args:
        images: in [0, 1], [batch, 3, height, width].
        metadata: of each prompt, for a reward that takes it.
        attempts: how often a call that raises, hangs or answers nonsense is made before giving up.
        timeout: seconds per call; None waits for ever.

    Raises:
        NonFiniteError: an image has pixels that are NaN or infinite; no reward sees it.
        RewardError: it does not return one finite float per image; the message names reward, sample and prompt, and
            the line that raised.
    """
    check_pictures(images, prompts)
    return _score(name, reward, images, prompts, metadata, attempts, timeout)


def _score(
    name: str,
    reward: Reward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Metadata | None,
    attempts: int,
    timeout: float | None,
) -> Tensor:
    """`score` of pictures that are checked."""
    tried = f" in each of {attempts} attempts" if attempts > 1 else ""
    for attempt in range(1, attempts + 1):
        try:
            return _call(reward, images, prompts, metadata, timeout)
        except AnswerError as error:
            if attempt == attempts:
                place = definition(reward)
                raise RewardError(f"the reward {shown(name)} {error}{tried}{place and f' ({place})'}") from error
        except Exception as error:  # whatever a user's function raises becomes one clear message
            if attempt == attempts:
                raise RewardError(f"the reward {shown(name)} failed{tried}: {reason(error, reward)}") from error
    raise ValueError(f"attempts is {attempts}; it should be at least 1")


def check_pictures(images: Tensor, prompts: Sequence[str], first: int = 0) -> None:
    """Check that pictures are fit to be scored.

    Args:
        first: number of the first image, for messages.

    Raises:
        NonFiniteError: a pixel is NaN or infinite; the message names sample and prompt.
    """
    bad = (~torch.isfinite(images).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"the picture of sample {first + bad[0]} (prompt {shown(prompts[bad[0]])}) has pixels that are not finite, "
            f"as {len(bad)} of {len(images)} have; no reward was asked; lower learn.learning_rate or use a wider "
            "model.dtype, then continue from the last checkpoint"
        )


def _call(
    reward: Reward, images: Tensor, prompts: Sequence[str], metadata: Metadata | None, timeout: float | None
) -> Tensor:
    if timeout is None:
        with contained():
            return ask(reward, images, prompts, metadata)
    answer: Future[Tensor] = Future()

    def work() -> None:
        try:
            with contained(answer):
                found = ask(reward, images, prompts, metadata)
            answer.set_result(found)
        except BaseException as error:
            answer.set_exception(error)

    # a daemon, so that a call that never ends does not keep the process
    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(timeout)
    except WaitedTooLong as error:
        if answer.done():  # the reward's own
            raise
        abandon(answer)
        raise TimeoutError(f"no answer within {timeout:g} seconds") from error


Waiting = dict[int, dict[str, Future[Tensor]]]  # number of a batch's first image -> reward -> its scores


class Scorer:
    """Scores batches of images by several rewards in the background, each reward in threads of its own.

    A reward that has `workers` is asked by so many threads at the same time, any other by one.

    Args:
        rewards: name, used in messages and results -> function.
        attempts, timeout: see `score`.
        world: the processes that share the batches; by default there is no other.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        *,
        attempts: int = 1,
        timeout: float | None = None,
        world: World | None = None,
    ) -> None:
        self.rewards, self.attempts, self.timeout, self.world = rewards, attempts, timeout, world or World()
        self._threads = {name: ThreadPoolExecutor(getattr(reward, "workers", 1)) for name, reward in rewards.items()}
        self._waiting: Waiting = {}
        self._next = 0  # the number of the image after the last one

    def submit(
        self, images: Tensor, prompts: Sequence[str], metadata: Metadata | None = None, first: int | None = None
    ) -> None:
        """Start scoring a batch; see `score` for the arguments.

        Args:
            first: number of its first image among those of all batches and processes; by default the next one.

        Raises:
            NonFiniteError: see `score`.
        """
        first = self._next if first is None else first
        check_pictures(images, prompts, first)
        self._next = first + len(images)
        self._waiting[first] = {
            name: self._threads[name].submit(
                _score, name, reward, images, prompts, metadata, self.attempts, self.timeout
            )
            for name, reward in self.rewards.items()
        }

    def take(self) -> Waiting:
        """The batches that were submitted since the last call of this or of `results`, for a later one."""
        waiting, self._waiting, self._next = self._waiting, {}, 0
        return waiting

    def results(self, waiting: Waiting | None = None) -> dict[str, Tensor]:
        """The scores of all batches submitted since the last call, joined: name -> float64 [images].

        Args:
            waiting: of these batches instead, which were taken.

        Raises:
            RewardError: see `score`.
            AskedToStopError: a process was asked to stop; it waits for no further score.
        """
        waiting = self.take() if waiting is None else waiting
        try:
            mine = {
                first: {name: self._result(call) for name, call in calls.items()} for first, calls in waiting.items()
            }
            batches = self.world.exchange(mine)
        finally:
            for calls in waiting.values():
                for call in calls.values():
                    call.cancel()
        return {name: torch.cat([batch[name] for batch in batches]) for name in self.rewards}

    def _result(self, call: Future[Tensor]) -> Tensor:
        """Of a call; nothing where this process is asked to stop before it has ended."""
        while not self.world.stopping:
            if wait([call], LOOK_SECONDS).done:
                return call.result()
        return torch.empty(0)
