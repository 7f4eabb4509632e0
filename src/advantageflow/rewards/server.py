"""A reward over HTTP: `advantageflow serve REWARD`, perhaps in another environment or on another machine."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from advantageflow import __version__
from advantageflow.errors import ConfigError, cut, shown
from advantageflow.rewards import Reward, check_reward, load_reward
from advantageflow.rewards.addresses import is_loopback, server_secret
from advantageflow.rewards.scoring import score
from advantageflow.rewards.wire import MAX_IMAGES, MAX_PIXELS, ScoreResponse, TooLargeError, decode_images, read_request


@dataclass
class Job:
    images: Tensor
    prompts: list[str]
    metadata: list[dict[str, Any]]
    future: Future[list[float]] = field(default_factory=Future)


class Batcher:
    """One thread that scores, joining the requests that wait at the same time and have images of one size.

    Args:
        max_waiting: pixels of all images that wait; more are turned away.
    """

    def __init__(self, name: str, reward: Reward, max_batch: int, max_waiting: int = 4 * MAX_PIXELS) -> None:
        self.name, self.reward, self.max_batch, self.max_waiting = name, reward, max_batch, max_waiting
        self.queue: Queue[Job] = Queue()
        self.waiting = 0  # pixels
        self._lock = threading.Lock()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]] | None) -> Future[list[float]]:
        """Let a request wait.

        Raises:
            Full: too much waits already.
        """
        job, pixels = Job(images, prompts, metadata or [{}] * len(prompts)), images[:, 0].numel()
        with self._lock:
            if self.full:
                raise Full
            self.waiting += pixels
        self.queue.put(job)
        return job.future

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more is taken; one request may be on top of it."""
        return self.waiting >= self.max_waiting

    def _work(self) -> None:
        kept: Job | None = None  # taken from the queue, but did not fit the last batch
        while True:
            jobs = [kept or self.queue.get()]
            kept = None
            size = len(jobs[0].prompts)
            while size < self.max_batch:
                try:
                    job = self.queue.get_nowait()
                except Empty:
                    break
                if job.images.shape[1:] != jobs[0].images.shape[1:] or size + len(job.prompts) > self.max_batch:
                    kept = job
                    break
                jobs.append(job)
                size += len(job.prompts)
            self._score([job for job in jobs if job.future.set_running_or_notify_cancel()])
            with self._lock:
                self.waiting -= sum(job.images[:, 0].numel() for job in jobs)

    def _score(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            images = torch.cat([job.images for job in jobs])
            prompts = [prompt for job in jobs for prompt in job.prompts]
            metadata = [row for job in jobs for row in job.metadata]
            scores = score(self.name, self.reward, images, prompts, metadata).tolist()
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:  # find out whose fault it is
                for job in jobs:
                    self._score([job])
            return
        for job in jobs:
            job.future.set_result(scores[: len(job.prompts)])
            scores = scores[len(job.prompts) :]


class Guard:
    """ASGI middleware: turns away a wrong token before the body is read, large bodies, and too many at once.

    Args:
        max_at_once: megabytes of all bodies that are being read or scored.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_megabytes: float, max_at_once: float) -> None:
        self.app, self.token = app, token
        self.max_bytes, self.max_at_once = max_megabytes * 1e6, max_at_once * 1e6
        self.held = 0  # bytes
        self.too_large = f"the body is larger than {max_megabytes:g} MB; send fewer images"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("authorization", "")
        if self.token and not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            await JSONResponse({"detail": "wrong or missing bearer token"}, 401)(scope, receive, send)
            return
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdecimal()):
            await JSONResponse({"detail": "the content-length is no number"}, 400)(scope, receive, send)
            return
        if int(declared) > self.max_bytes:
            await JSONResponse({"detail": self.too_large}, 413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received, self.held = received + size, self.held + size
            if received > self.max_bytes:
                raise HTTPException(413, self.too_large)
            if self.held > self.max_at_once:
                raise busy("too many requests are being read")
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.held -= received


def busy(why: str) -> HTTPException:
    """Asks the client to come again."""
    return HTTPException(503, f"{why}; try again", headers={"Retry-After": "1"})


def create_app(
    name: str,
    reward: Reward,
    *,
    token: str | None = None,
    max_megabytes: float = 64,
    timeout: float = 120,
    max_batch: int = 64,
    max_pixels: int = MAX_PIXELS,
) -> FastAPI:
    """The application: GET /health, GET /version, POST /score.

    Args:
        token: asked for as a bearer token, if given.
        max_megabytes: of a request's body.
        timeout: seconds after which a request is answered with 504.
        max_batch: images scored in one call, of one or several requests.
        max_pixels: of all images of a request; four times as many may wait.
    """
    batcher = Batcher(name, reward, max_batch, 4 * max_pixels)

    app = FastAPI(title=f"AdvantageFlow reward {name}", version=__version__)
    app.add_middleware(Guard, token=token, max_megabytes=max_megabytes, max_at_once=4 * max_megabytes)

    @app.get("/health")
    def health() -> dict[str, Any]:
        limits = {"images": MAX_IMAGES, "pixels": max_pixels, "bytes": int(max_megabytes * 1e6)}
        return {"status": "ok", "reward": name, "waiting": batcher.queue.qsize(), "limits": limits}

    @app.get("/version")
    def version() -> dict[str, str]:
        return {"advantageflow": __version__}

    @app.post("/score")
    async def score_images(request: Request) -> ScoreResponse:
        if batcher.full:
            raise busy("too many images are waiting")
        try:
            body = read_request(await request.body())
            check_prompts(reward, body.prompts)
            images = decode_images(body, max_pixels)
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        try:
            future = batcher.submit(images, body.prompts, body.metadata)
        except Full:
            raise busy("too many images are waiting") from None
        try:
            return ScoreResponse(scores=await asyncio.wait_for(asyncio.wrap_future(future), timeout))
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"the reward {shown(name)} took longer than {timeout:g} seconds") from error
        except Exception as error:  # what the client sent was right: the fault is the reward's, and may pass
            raise HTTPException(500, cut(str(error), 1000)) from error

    return app


def check_prompts(reward: Reward, prompts: list[str]) -> None:
    """Check that a reward can score each prompt, if it says so.

    Raises:
        ValueError: it cannot; the message has the image's number.
    """
    check = getattr(reward, "check_prompt", None)
    if check is None:
        return
    for index, prompt in enumerate(prompts):
        try:
            check(prompt)
        except ValueError as error:
            raise ValueError(f"image {index} has a prompt that cannot be scored: {cut(str(error), 1000)}") from error


def app_from_environment() -> FastAPI:
    """What a worker process of `serve` runs; the command line leaves its settings in the environment."""
    settings = json.loads(os.environ["ADVANTAGEFLOW_SERVE"])
    name = settings.pop("name")
    return create_app(name, load_reward(name), token=server_secret(), **settings)


def greeting(name: str, host: str, port: int, with_token: bool) -> str:
    """Where a reward is served, and how it is used and tried."""
    named = f"[{host}]" if ":" in host else host
    at, header = f"http://{named}:{port}", '-H "Authorization: Bearer $ADVANTAGEFLOW_TOKEN" ' if with_token else ""
    return (
        f"serving {name} at {at}; stop it with Ctrl-C\n"
        f"  ready when this answers: curl {header}{at}/health\n"
        f"  as a reward:             advantageflow train RECIPE reward={at}"
    )


def serve(name: str, host: str, port: int, workers: int, **settings: Any) -> None:
    """Run the server until it is stopped; dead worker processes are replaced.

    Raises:
        ConfigError: it would listen to other machines without a token.
    """
    import uvicorn

    secret = server_secret()
    if not is_loopback(host) and not secret:
        raise ConfigError(
            f"--host {host} listens to other machines; set ADVANTAGEFLOW_TOKEN to a secret that clients must send"
        )
    check_reward(name)  # a mistake is told before the server starts; the workers load it
    print(greeting(name, host, port, bool(secret)), flush=True)
    os.environ["ADVANTAGEFLOW_SERVE"] = json.dumps({"name": name, **settings})
    uvicorn.run(
        "advantageflow.rewards.server:app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
    )
