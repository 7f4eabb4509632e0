"""Calling rewards: checked answers, bounded waiting, and scoring that runs beside sampling."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitedTooLong
from typing import Any

import torch
from torch import Tensor

from advantageflow.config import ConfigError
from advantageflow.rewards import Reward


class RewardError(ConfigError):
    """A reward that does not give one finite number per image, in time."""


def score(
    name: str, reward: Reward, images: Tensor, prompts: list[str], *, attempts: int = 1, timeout: float | None = None
) -> Tensor:
    """Call a reward and check its answer: float64 [batch].

    Args:
        attempts: how often a call that raises or hangs is made before giving up.
        timeout: seconds per call; None waits for ever.

    Raises:
        RewardError: it does not return one finite float per image; the message names reward, sample and prompt.
    """
    for attempt in range(1, attempts + 1):
        try:
            answer = _call(reward, images, prompts, timeout)
            values = torch.as_tensor(answer, dtype=torch.float64).flatten()
            break
        except Exception as error:  # whatever a user's function raises becomes one clear message
            if attempt == attempts:
                tried = f" in each of {attempts} attempts" if attempts > 1 else ""
                raise RewardError(f"the reward {name!r} failed{tried}: {_reason(error)}") from error
    if len(values) != len(prompts):
        raise RewardError(
            f"the reward {name!r} returned {len(values)} values for {len(prompts)} images; return one per image"
        )
    for index, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            raise RewardError(f"the reward {name!r} returned {value} for sample {index}, prompt {prompts[index]!r}")
    return values


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | TimeoutError) and text else f"{type(error).__name__}: {text}"


def _call(reward: Reward, images: Tensor, prompts: list[str], timeout: float | None) -> Any:
    if timeout is None:
        return reward(images, prompts)
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(reward(images, prompts))
        except BaseException as error:
            answer.set_exception(error)

    # a daemon, so that a call that never ends does not keep the process
    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(timeout)
    except WaitedTooLong as error:
        if answer.done():  # the reward's own
            raise
        raise TimeoutError(f"no answer within {timeout:g} seconds") from error


class Scorer:
    """Scores batches of images by several rewards in the background, each reward in a thread of its own.

    Args:
        rewards: name, used in messages and results -> function.
        attempts, timeout: see `score`.
    """

    def __init__(self, rewards: Mapping[str, Reward], *, attempts: int = 1, timeout: float | None = None) -> None:
        self.rewards, self.attempts, self.timeout = rewards, attempts, timeout
        self._threads = {name: ThreadPoolExecutor(1) for name in rewards}
        self._waiting: dict[str, list[Future[Tensor]]] = {name: [] for name in rewards}

    def submit(self, images: Tensor, prompts: list[str]) -> None:
        """Start scoring a batch."""
        for name, reward in self.rewards.items():
            call = self._threads[name].submit(
                score, name, reward, images, prompts, attempts=self.attempts, timeout=self.timeout
            )
            self._waiting[name].append(call)

    def results(self) -> dict[str, Tensor]:
        """The scores of all batches submitted since the last call, joined: name -> float64 [images].

        Raises:
            RewardError: see `score`.
        """
        waiting = self._waiting
        self._waiting = {name: [] for name in self.rewards}
        try:
            return {name: torch.cat([call.result() for call in calls]) for name, calls in waiting.items()}
        finally:
            for calls in waiting.values():
                for call in calls:
                    call.cancel()
