"""The reward server as its users meet it: right answers, clear refusals, and trouble that a client survives."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from advantageflow.config import ConfigError
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.wire import ScoreRequest, decode_images, encode_request
from advantageflow.server import create_app, serve

testclient = pytest.importorskip("fastapi.testclient")

REWARDS = '''
import os, time

def mean(images, prompts):
    """The brightness, and slower for some."""
    if any("slow" in prompt for prompt in prompts):
        time.sleep(0.3)
    return images.mean((1, 2, 3))

def process(images, prompts):
    return [float(os.getpid())] * len(prompts)
'''


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def images_of(*values, size=8):
    return torch.stack([torch.full((3, size, size), value / 255) for value in values])


def remote(app, **options):
    client = testclient.TestClient(app, raise_server_exceptions=False)
    return RemoteReward("http://testserver", client=client, attempts=2, **options)


def test_images_survive_the_wire():
    images = torch.rand(3, 3, 8, 12)
    exact = decode_images(encode_request(images, ["a", "b", "c"], "npz"))
    assert torch.equal(exact, images)
    rounded = decode_images(encode_request(images, ["a", "b", "c"], "png"))
    torch.testing.assert_close(rounded, (images * 255).round() / 255)


def test_nothing_but_images_is_decoded():
    for request, message in (
        (ScoreRequest(prompts=["a"], images=["bm90IGFuIGltYWdl"]), "cannot be read"),
        (ScoreRequest(prompts=["a"], images=["%%%"]), "base64|Only|cannot be read"),
        (ScoreRequest(prompts=["a", "b"], images=encode_request(images_of(1), ["a"]).images), "2 prompts came with"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_images(request)


def test_the_answer_is_the_local_one():
    images, prompts = images_of(10, 20, 200), ["a", "b", "c"]
    for encoding in ("png", "npz"):
        scores = remote(create_app("brightness", brightness), encoding=encoding)(images, prompts)
        assert scores == pytest.approx(brightness(images, prompts).tolist())


def test_health_and_version():
    client = testclient.TestClient(create_app("brightness", brightness))
    limits = {"images": 1024, "pixels": 2**24, "bytes": 64_000_000}
    assert client.get("/health").json() == {"status": "ok", "reward": "brightness", "waiting": 0, "limits": limits}
    assert set(client.get("/version").json()) == {"advantageflow"}


def test_a_token_is_asked_for():
    app = create_app("brightness", brightness, token="secret")
    assert remote(app, token="secret")(images_of(51), ["a"]) == pytest.approx([0.2])
    with pytest.raises(ValueError, match=r"status 401.*set ADVANTAGEFLOW_TOKEN_TESTSERVER.*missing bearer"):
        remote(app, token="wrong")(images_of(51), ["a"])
    assert testclient.TestClient(app).get("/health").status_code == 401


def test_a_large_body_is_refused_with_and_without_its_length():
    app = create_app("brightness", brightness, max_megabytes=0.01)
    with pytest.raises(ValueError, match=r"takes 10000 bytes in a request; one image has \d+"):
        remote(app, encoding="npz")(torch.rand(4, 3, 64, 64), ["a"] * 4)
    body = encode_request(torch.rand(4, 3, 64, 64), ["a"] * 4).model_dump_json(exclude_none=True)
    response = testclient.TestClient(app).post("/score", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["detail"]) == (
        413,
        "the body is larger than 0.01 MB; send fewer images",
    )

    def chunks():
        for _ in range(100):
            yield b"x" * 1000

    response = testclient.TestClient(app).post("/score", content=chunks(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_a_slow_reward_is_answered_in_time():
    def slow(images, prompts):
        time.sleep(0.5)
        return [0.0] * len(prompts)

    with pytest.raises(ValueError, match=r"did not answer in 2 attempts.*504.*took longer than 0\.05 seconds"):
        remote(create_app("slow", slow, timeout=0.05))(images_of(1), ["a"])


def test_a_bad_reward_is_told_and_does_not_harm_its_neighbours():
    started = threading.Event()

    def picky(images, prompts):
        started.set()
        time.sleep(0.02)
        return [float("nan") if prompt == "bad" else 1.0 for prompt in prompts]

    app = create_app("picky", picky)
    with ThreadPoolExecutor(8) as pool:

        def ask(prompt):
            try:
                return remote(app)(images_of(1), [prompt])
            except ValueError as error:
                return str(error)

        answers = list(pool.map(ask, ["good", "bad"] * 8))
    assert answers[::2] == [[1.0]] * 8
    assert all("returned nan for sample 0, prompt 'bad'" in answer for answer in answers[1::2])


def post(app, **changes):
    given = encode_request(images_of(10), ["a"]).model_dump(exclude_none=True) | changes
    return testclient.TestClient(app, raise_server_exceptions=False).post("/score", json=given)


def png_of(width, height):
    """A PNG that declares a size and holds none of its pixels."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b64encode(b"\x89PNG\r\n\x1a\n" + chunk + data).decode()


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"images": [png_of(4096, 4096)] * 6, "prompts": ["a"] * 6}, 413, "with image 1 the request has 33554432"),
        ({"images": [png_of(8, 8)]}, 422, "image 0 cannot be read"),
        ({"images": ["%%%"]}, 422, "image 0 cannot be read: it is not base64"),
        ({"prompts": ["a", "b"]}, 422, "2 prompts came with 1 images"),
        ({"prompts": ["x" * 10_001]}, 422, "at most 10000"),
        ({"metadata": [{"a": 1}, {}]}, 422, "1 prompts came with metadata of 2"),
        ({"prompts": []}, 422, "prompts"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_what_a_client_sends_wrong_is_its_own_fault(changes, status, told):
    answer = post(create_app("brightness", brightness), **changes)
    assert answer.status_code == status
    assert told in answer.json()["detail"]


def test_the_failure_of_a_reward_is_the_servers_and_is_tried_again():
    calls = []

    def moody(images, prompts):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not now")
        return [0.5] * len(prompts)

    assert post(create_app("broken", lambda images, prompts: 1 / 0)).status_code == 500
    assert remote(create_app("moody", moody))(images_of(1), ["a"]) == [0.5]


def test_a_full_queue_asks_the_client_to_come_again():
    release, started = threading.Event(), threading.Event()

    def slow(images, prompts):
        started.set()
        release.wait(10)
        return [0.0] * len(prompts)

    app = create_app("slow", slow, max_pixels=images_of(1)[0, 0].numel())
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(post, app)]
        assert started.wait(10)
        waiting += [pool.submit(post, app) for _ in range(3)]
        deadline = time.monotonic() + 10
        while (answer := post(app)).status_code != 503 and time.monotonic() < deadline:
            release.set()
        assert answer.headers.get("retry-after") == "1" or release.is_set()
        release.set()
        assert all(call.result().status_code in (200, 503) for call in waiting)


def test_a_batch_that_is_too_large_is_sent_in_parts():
    sizes = []

    def counting(images, prompts):
        sizes.append(len(images))
        return brightness(images, prompts)

    images, prompts = images_of(*range(10)), list("abcdefghij")
    app = create_app("counting", counting, max_pixels=3 * images[0, 0].numel())
    assert remote(app)(images, prompts) == pytest.approx(brightness(images, prompts).tolist())
    assert max(sizes) <= 3


def test_the_columns_of_a_prompt_reach_the_reward():
    def wanted(images, prompts, metadata):
        return [row["wanted"] for row in metadata]

    rows = [{"wanted": 1.5}, {"wanted": 2.5}]
    assert remote(create_app("wanted", wanted))(images_of(1, 2), ["a", "b"], rows) == [1.5, 2.5]


def test_other_machines_need_a_token(monkeypatch):
    monkeypatch.delenv("ADVANTAGEFLOW_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"--host 0.0.0.0 listens to other machines; set ADVANTAGEFLOW_TOKEN"):
        serve("scenes_graded", "0.0.0.0", 1, 1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def running_server(tmp_path):
    """`advantageflow serve` with two worker processes."""
    (tmp_path / "served.py").write_text(REWARDS)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "advantageflow", "serve", "served:mean", "--port", str(port), "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield url, process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found]


def test_under_load_with_a_killed_worker_every_answer_is_right(running_server):
    url, pid = running_server
    clients, requests = 8, 200

    def client(number):
        reward = RemoteReward(url, timeout=20)
        answers = []
        for i in range(requests):
            value = (number * 31 + i) % 256
            prompt = "slow" if i == 50 and number == 0 else "a"
            answers.append(reward(images_of(value), [prompt])[0] == pytest.approx(value / 255, abs=1e-6))
            if number == 0 and i == 100:
                os.kill(children(pid)[0], signal.SIGKILL)
        return answers

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for found in pool.map(client, range(clients)) for answer in found]
    assert len(answers) == clients * requests
    assert all(answers)
