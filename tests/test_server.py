"""The reward server as its users meet it: right answers, clear refusals, and trouble that a client survives."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from advantageflow.config import ConfigError
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.server import create_app, greeting, serve
from advantageflow.rewards.wire import ScoreRequest, decode_images, encode_request

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
    with pytest.raises(
        ValueError, match=r"status 401: .*wrong or missing bearer token.*set ADVANTAGEFLOW_TOKEN_TESTSERVER"
    ):
        remote(app, token="wrong")(images_of(51), ["a"])
    assert testclient.TestClient(app).get("/health").status_code == 401


def test_a_large_body_is_refused_with_and_without_its_length():
    app = create_app("brightness", brightness, max_megabytes=0.01)
    with pytest.raises(ValueError, match=r"status 413: .*larger than 0.01 MB"):
        remote(app, encoding="npz")(torch.rand(4, 3, 64, 64), ["a"] * 4)

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


def npz_of(header=None, name="images.npy", method=zipfile.ZIP_DEFLATED, data=b"", **arrays):
    """An npz of arrays, or of an array whose header says what it likes."""
    buffer = BytesIO()
    if header is None:
        np.savez(buffer, **arrays)
    else:
        with zipfile.ZipFile(buffer, "w", method) as archive:
            text = BytesIO()
            np.lib.format.write_array_header_1_0(text, {"descr": "<f4", "fortran_order": False, **header})
            archive.writestr(name, text.getvalue() + data)
    return b64encode(buffer.getvalue()).decode()


GREY = np.full((1, 3, 8, 8), 0.5, np.float32)


@pytest.mark.parametrize(
    ("npz", "status", "told"),
    [
        (npz_of(images=GREY), 200, ""),
        (npz_of(images=GREY.astype(np.float16)), 200, ""),
        (npz_of(images=np.asfortranarray(GREY.astype(np.float64))), 200, ""),
        (npz_of(images=GREY * np.nan), 422, "image 0 has values that are not in [0, 1]"),
        (npz_of(images=GREY * np.inf), 422, "image 0 has values that are not in [0, 1]"),
        (npz_of(images=GREY * 255), 422, "image 0 has values that are not in [0, 1]"),
        (npz_of(images=GREY - 1), 422, "image 0 has values that are not in [0, 1]"),
        (npz_of(images=(GREY * 255).astype(np.uint8)), 422, "its dtype is 'uint8'"),
        (npz_of(images=GREY.astype(complex)), 422, "its dtype is 'complex128'"),
        (npz_of(images=np.array([{"a": 1}], dtype=object)), 422, "its dtype is 'object'"),
        (npz_of(images=GREY[0]), 422, "1 prompts came with images of shape (3, 8, 8)"),
        (npz_of(images=GREY[:, :, :0]), 422, "images of shape (1, 3, 0, 8)"),
        (npz_of(images=GREY, more=GREY), 422, "image 0"),
        (npz_of(other=GREY), 422, "an npz holds one array, images"),
        (npz_of({"shape": (1, 3, 10**5, 10**5)}), 413, "has 10000000000 pixels; at most 16777216"),
        (npz_of({"shape": (1, 3, 8, 8)}, data=b"x"), 422, "is said to have 768 bytes"),
        (npz_of({"shape": (1, 3, 8, 8)}, data=bytes(10**8)), 422, "is said to have 768 bytes"),
        (npz_of({"shape": (1, 3, -8, 8)}), 422, "cannot be read"),
        (npz_of({"shape": (1, 3, 8, 8)}, "x" * 9000), 422, "cannot be read"),
        (npz_of({"shape": (1, 3, 8, 8)}, method=zipfile.ZIP_LZMA, data=GREY.tobytes()), 422, "stored or deflated"),
        (b64encode(b"PK\x03\x04" + bytes(100)).decode(), 422, "cannot be read"),
        (npz_of(images=GREY)[:-400], 422, "cannot be read"),
    ],
)
def test_an_npz_is_measured_before_it_is_unpacked(npz, status, told):
    answer = post(create_app("brightness", brightness), images=[npz], encoding="npz")
    assert answer.status_code == status
    assert told in answer.json().get("detail", "")


def png(picture, **options):
    buffer = BytesIO()
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_png_of_8_bits_is_read_whatever_its_channels(mode):
    blob = b64encode(png(Image.new(mode, (8, 8)))).decode()
    assert post(create_app("brightness", brightness), images=[blob]).status_code == 200


WHOLE = png(Image.new("RGB", (64, 64), (1, 2, 3)))


@pytest.mark.parametrize(
    "blob",
    [
        b"", b"x", WHOLE[:20], WHOLE[:60], WHOLE[:-30], WHOLE[:40] + b"\xff" * 20 + WHOLE[60:],
        png(Image.new("I;16", (8, 8))), b"GIF89a" + bytes(50), b"\xff\xd8\xff\xe0" + bytes(50), b64decode(png_of(0, 8)),
        b64decode(png_of(60000, 60000)),
    ],
)  # fmt: skip
def test_a_damaged_picture_is_told_by_its_number(blob):
    answer = post(
        create_app("brightness", brightness),
        prompts=["a", "b"],
        images=[b64encode(WHOLE).decode(), b64encode(blob).decode()],
    )
    assert 400 <= answer.status_code < 500
    assert "image 1" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422), (b"\xff\xfe", 422), (b"[" * 10_000, 422),
        (b'{"prompts": ["\\ud800"], "images": ["a"]}', 422), (b'{"prompts": "a", "images": "b"}', 422),
        (b'{"prompts": [' + b"[]," * 10**6, 413),
        (b'{"prompts": ["a"], "images": ["a"], "metadata": [{"a": "' + b"x" * 200_000 + b'"}]}', 422),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_body_that_is_no_request_is_4xx_and_not_echoed(body, status):
    client = testclient.TestClient(create_app("brightness", brightness), raise_server_exceptions=False)
    answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert len(answer.content) < 1000


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is read as Linux tells it")
def test_what_is_refused_takes_no_memory():
    """Bodies of 0.1 to 3 MB that stand for gigabytes cost less than 60 MB."""
    picture = b64encode(png(Image.new("L", (4096, 4096)))).decode()
    bomb = npz_of({"shape": (1, 3, 2**14, 2**14)}, data=bytes(10**8))
    bodies = [
        ScoreRequest(prompts=["a"] * 6, images=[picture] * 6).model_dump_json(exclude_none=True),
        ScoreRequest(prompts=["a"], images=[bomb], encoding="npz").model_dump_json(exclude_none=True),
        b'{"prompts": [' + b"[]," * 10**6,
    ]
    client = testclient.TestClient(create_app("brightness", brightness))
    for body in bodies:
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert memory("VmHWM") - before < 60


def memory(name):
    """Megabytes of this process."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000


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
        release.wait(30)
        return [0.0] * len(prompts)

    app = create_app("slow", slow, max_pixels=64)  # one image of 8 x 8; four may wait
    with ThreadPoolExecutor(8) as pool, testclient.TestClient(app) as client:
        first = pool.submit(post, app)
        assert started.wait(10)
        others = [pool.submit(post, app) for _ in range(3)]
        deadline = time.monotonic() + 10
        while client.get("/health").json()["waiting"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        answer = post(app)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "too many images are waiting" in answer.json()["detail"]
        release.set()
        assert [call.result().status_code for call in (first, *others)] == [200] * 4
        assert remote(app)(images_of(1), ["a"]) == [0.0]


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


def test_a_server_says_where_it_is_and_how_it_is_tried():
    told = greeting("ocr", "::1", 8123, with_token=True)
    assert "serving ocr at http://[::1]:8123" in told
    assert 'curl -H "Authorization: Bearer $ADVANTAGEFLOW_TOKEN" http://[::1]:8123/health' in told
    assert "reward=http://127.0.0.1:8000" in greeting("ocr", "127.0.0.1", 8000, with_token=False)


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
