"""A reward behind HTTP: `advantageflow serve`, or any server that answers POST /score the same way."""

from __future__ import annotations

import os
import random
import time

import httpx
from torch import Tensor

from advantageflow.rewards.wire import Encoding, ScoreResponse, encode_request

RETRY_STATUS = {429, 502, 503, 504}


class RemoteReward:
    """Asks a server for the scores; tries again, waiting longer each time, while it is away or busy.

    Args:
        url: of the server, such as http://127.0.0.1:8000.
        token: sent as a bearer token; by default ADVANTAGEFLOW_TOKEN of the environment.
        encoding: "png" (small) or "npz" (exact floats).
        attempts: how often a request is sent before giving up.
        timeout: seconds per attempt.
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
        token = token or os.environ.get("ADVANTAGEFLOW_TOKEN")
        self.url, self.encoding, self.attempts = url.rstrip("/"), encoding, attempts
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = client or httpx.Client(timeout=timeout)
        self.client.headers.update(headers)

    def version(self) -> str:
        """What the server says of its version; empty where it says nothing."""
        try:
            response = self.client.get(f"{self.url}/version")
        except httpx.TransportError:
            return ""
        return response.text[:1000] if response.is_success else ""

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width].

        Raises:
            ValueError: the server refuses the request, or does not answer in all attempts.
        """
        body = encode_request(images, prompts, self.encoding).model_dump_json()
        reason = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(10.0, 0.1 * 2**attempt) * (0.5 + random.random()))
            try:
                response = self.client.post(
                    f"{self.url}/score", content=body, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in RETRY_STATUS:
                reason = f"status {response.status_code}: {response.text[:200]}"
                continue
            if response.is_error:
                raise ValueError(f"{self.url} refused with status {response.status_code}: {response.text[:300]}")
            return ScoreResponse.model_validate_json(response.content).scores
        raise ValueError(f"{self.url} did not answer in {self.attempts} attempts; the last one: {reason}")
