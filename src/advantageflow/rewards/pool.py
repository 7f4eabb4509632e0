"""Several servers of one reward, asked in turn."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from itertools import count

from torch import Tensor

from advantageflow.errors import ConfigError
from advantageflow.rewards.remote import AwayError, Metadata, RemoteReward

PAUSE = 60.0  # seconds for which a server that was away is not asked
ATTEMPTS = 2  # of one server, before the next one is asked


class RewardPool:
    """Batches go to the servers in turn, to all at the same time; one that is away is left out, and tried again later.

    Args:
        servers: of one reward.
        pause: seconds for which a server that was away is not asked.
    """

    def __init__(self, servers: Sequence[RemoteReward], pause: float = PAUSE) -> None:
        self.servers, self.pause = list(servers), pause
        self.workers = len(self.servers)  # calls at the same time
        self._turn, self._lock = count(), threading.Lock()
        self._away = dict.fromkeys(range(self.workers), float("-inf"))  # server -> until when

    @classmethod
    def of(cls, addresses: str) -> RewardPool:
        """Of addresses with commas between them.

        Raises:
            ConfigError: one cannot be right, or is there twice.
        """
        servers = [RemoteReward(address, attempts=ATTEMPTS) for address in addresses.split(",")]
        if len({server.url for server in servers}) < len(servers):
            raise ConfigError(f"a reward names one server twice: {addresses}; name each once")
        return cls(servers)

    def __call__(self, images: Tensor, prompts: list[str], metadata: Metadata | None = None) -> list[float]:
        """Scores [batch] of images in [0, 1], by the next server that answers.

        Raises:
            ValueError: a server refuses the request, or none answers; the message says what each said.
        """
        with self._lock:
            first, now = next(self._turn) % self.workers, time.monotonic()
            order = [(first + i) % self.workers for i in range(self.workers)]
            order.sort(key=lambda number: self._away[number] > now)  # the absent last, but not never
        told = []
        for number in order:
            server = self.servers[number]
            try:
                scores = server(images, prompts, metadata)
            except AwayError as error:
                told.append(str(error))
                self._leave_out(number)
            else:
                self._away[number] = float("-inf")
                return scores
        raise ValueError(f"no server of this reward answers: {'; '.join(told)}")

    def check_health(self) -> None:
        """Ask every server whether it is there, before anything long begins; one that is not is told and left out.

        Raises:
            ConfigError: none is.
        """
        told = []
        for number, server in enumerate(self.servers):
            try:
                server.check_health()
            except ConfigError as error:
                told.append(str(error))
                self._away[number] = time.monotonic() + self.pause
        if len(told) == self.workers:
            raise ConfigError("; ".join(told))
        for line in told:
            warnings.warn(f"{line}; the other servers go on without it", stacklevel=2)

    def version(self) -> str:
        """What the servers say of their versions."""
        return ", ".join(sorted({server.version() for server in self.servers}))

    def _leave_out(self, number: int) -> None:
        with self._lock:
            known = self._away[number] > time.monotonic()
            self._away[number] = time.monotonic() + self.pause
        if not known:
            warnings.warn(
                f"the reward server {self.servers[number].url} does not answer and is left out for {self.pause:g} "
                "seconds",
                stacklevel=3,
            )
