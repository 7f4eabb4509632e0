"""A reward behind HTTP: `advantageflow serve`, or any server that answers POST /score the same way."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError
from torch import Tensor

from advantageflow.errors import ConfigError, cut
from advantageflow.rewards.addresses import ask, open_client, parse_address, token_for, variable
from advantageflow.rewards.wire import MAX_IMAGES, Encoding, ScoreResponse, TooLargeError, encode_request

RETRY_STATUS = {429, 500, 502, 503, 504}
LONGEST_PAUSE = 30.0  # seconds
Metadata = Sequence[Mapping[str, Any]]


class Limits(BaseModel):
    """What a server takes in one request, as its /health says; a server that says nothing is asked for all at once."""

    images: int = MAX_IMAGES
    pixels: int = 2**62
    bytes: int = 2**62


class AwayError(ValueError):
    """A server that does not answer in all attempts."""


class RemoteReward:
    """Asks a server for the scores; tries again, waiting longer each time, while it is away or busy.

    A batch that is larger than the server takes is sent in parts.

    Args:
        url: of the server, such as http://127.0.0.1:8000; it may end in /score.
        token: sent as a bearer token to this host; by default what `token_for` finds in the environment.
        encoding: "png" (small) or "npz" (exact floats).
        attempts: how often a request is sent before giving up.
        timeout: seconds per attempt.

    Raises:
        ConfigError: the address or the token cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        encoding: Encoding = "png",
        attempts: int = 6,
        timeout: float = 120.0,
        client: httpx.Client | None = None,
    ) -> None:
        self.address = parse_address(url)
        self.url, self.encoding, self.attempts, self.timeout = str(self.address), encoding, attempts, timeout
        self.token = token if token is not None else token_for(self.address)
        self.client = client or open_client(self.address, self.token, timeout)

    def version(self) -> str:
        """What the server says of its version; empty where it says nothing."""
        try:
            status, _, answer = self._ask("/version", timeout=min(self.timeout, 10.0))
        except (httpx.TransportError, ValueError):
            return ""
        return answer.decode(errors="replace")[:1000] if status == 200 else ""

    def __call__(self, images: Tensor, prompts: list[str], metadata: Metadata | None = None) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width].

        Raises:
            ValueError: the server refuses the request.
            AwayError: it does not answer in all attempts.
        """
        if metadata and not any(metadata):  # a server need not know of it
            metadata = None
        most = max(1, min(self._limits.images, self._limits.pixels // (images.shape[2] * images.shape[3])))
        scores: list[float] = []
        for start in range(0, len(prompts), most):
            part = slice(start, start + most)
            scores += self._score(images[part], prompts[part], metadata and metadata[part])
        return scores

    def check_health(self) -> None:
        """Ask whether the server is there, before anything long begins.

        Raises:
            ConfigError: nobody answers, it wants another token, or it is not well.
        """
        try:
            status, _, answer = self._ask("/health", timeout=min(self.timeout, 10.0))
        except (httpx.TransportError, ValueError) as error:
            told = _told(error) if isinstance(error, httpx.TransportError) else str(error)
            raise ConfigError(
                f"the reward server {cut(self.url)} cannot be reached: {told}; start it (advantageflow serve REWARD), "
                "or correct the address"
            ) from error
        if status in (401, 403):
            raise ConfigError(self._unknown_token(status, answer))
        if status >= 500:
            raise ConfigError(
                f"the reward server {cut(self.url)} is not well: /health has status {status}: {_text(answer)}"
            )

    @cached_property
    def _limits(self) -> Limits:
        try:
            status, _, answer = self._ask("/health", timeout=min(self.timeout, 10.0))
            return _Health.model_validate_json(answer).limits if status == 200 else Limits()
        except (httpx.TransportError, ValueError):  # not every server has one; what is too large is told at /score
            return Limits()

    def _score(self, images: Tensor, prompts: list[str], metadata: Metadata | None) -> list[float]:
        body = encode_request(images, prompts, self.encoding, metadata).model_dump_json(exclude_none=True).encode()
        half = len(prompts) // 2
        if not half or len(body) <= self._limits.bytes:
            try:
                return self._post(body, len(prompts))
            except TooLargeError:
                if not half:
                    raise
        first = self._score(images[:half], prompts[:half], metadata and metadata[:half])
        return first + self._score(images[half:], prompts[half:], metadata and metadata[half:])

    def _post(self, body: bytes, count: int) -> list[float]:
        told, wait = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(wait, min(10.0, 0.1 * 2**attempt) * (0.5 + random.random())))
            try:
                status, headers, answer = self._ask("/score", body=body, timeout=self.timeout)
            except httpx.TransportError as error:
                told, wait = _told(error), 0.0
                continue
            if status == 200:
                return self._read(answer, count)
            told = f"status {status}: {_text(answer)}"
            if status == 413:
                raise TooLargeError(f"{cut(self.url)} refused with {told}")
            if status in (401, 403):
                raise ValueError(self._unknown_token(status, answer))
            if status not in RETRY_STATUS:
                raise ValueError(f"{cut(self.url)} refused with {told}")
            after = headers.get("retry-after", "")
            wait = min(LONGEST_PAUSE, float(after)) if after.isdecimal() and after.isascii() else 0.0
        raise AwayError(f"{cut(self.url)} did not answer in {self.attempts} attempts; the last one: {told}")

    def _read(self, answer: bytes, count: int) -> list[float]:
        try:
            scores = ScoreResponse.model_validate_json(answer).scores
        except ValidationError as error:
            raise ValueError(f'{cut(self.url)} did not answer {{"scores": [...]}} but {_text(answer)}') from error
        if len(scores) != count:
            raise ValueError(f"{cut(self.url)} answered {len(scores)} scores for {count} images")
        return scores

    def _ask(self, path: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        return ask(self.client, self.url + path, token=self.token, **options)

    def _unknown_token(self, status: int, answer: bytes) -> str:
        told = f"{cut(self.url)} refused with status {status}: {_text(answer)}"
        return f"{told}; {'another' if self.token else 'a'} token is needed: set {variable(self.address)} to it"


class _Health(BaseModel):
    limits: Limits = Limits()


def _told(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {cut(' '.join(str(error).split()))}"


def _text(answer: bytes) -> str:
    text = " ".join(answer[:1000].decode(errors="replace").split())
    return cut("".join(letter if letter.isprintable() else "�" for letter in text), 300)
