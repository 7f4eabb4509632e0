"""Messages of rewards and their servers repeat the beginning of a long value, and no more."""

import re
from pathlib import Path

import httpx
import pytest
import torch

import advantageflow
from advantageflow.rewards import check_reward
from advantageflow.rewards.ocr import OCR
from advantageflow.rewards.quotes import quoted_text
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.scoring import score
from advantageflow.rewards.server import check_prompts
from advantageflow.rewards.wire import read_request

LONG = "x" * 5000
IMAGES = torch.zeros(1, 3, 8, 8)


def refuse(*_):
    raise ValueError(LONG)


def remote(status, body="", headers=None):
    """A reward at a long address, whose server answers so."""
    answer = httpx.MockTransport(lambda _: httpx.Response(status, text=body, headers=headers))
    return RemoteReward(f"http://127.0.0.1/{LONG}", attempts=1, client=httpx.Client(transport=answer))


class Picky:
    check_prompt = refuse


@pytest.mark.parametrize(
    "told",
    [
        lambda: check_reward(LONG),
        lambda: check_reward(f"./{LONG}.py:score"),
        lambda: check_reward(f"{LONG}:score"),
        lambda: check_reward(f"math:{LONG}"),
        lambda: check_reward(f"http://{LONG}"),
        lambda: score(LONG, refuse, IMAGES, [LONG]),
        lambda: score(LONG, lambda *_: [], IMAGES, [LONG]),
        lambda: score(LONG, lambda *_: [float("nan")], IMAGES, [LONG]),
        lambda: score(LONG, lambda *_: [LONG], IMAGES, [LONG]),
        lambda: score(LONG, lambda *_: [0.0], IMAGES * float("nan"), [LONG]),
        lambda: remote(200, LONG)(IMAGES, ["a"]),
        lambda: remote(200, '{"scores": []}')(IMAGES, ["a"]),
        lambda: remote(302, headers={"location": f"http://{LONG}"})(IMAGES, ["a"]),
        lambda: remote(400, LONG)(IMAGES, ["a"]),
        lambda: remote(401, LONG)(IMAGES, ["a"]),
        lambda: remote(413, LONG)(IMAGES, ["a"]),
        lambda: remote(500, LONG)(IMAGES, ["a"]),
        lambda: remote(500, LONG).check_health(),
        lambda: remote(403, LONG).check_health(),
        lambda: read_request(f'{{"{LONG}": 1, "prompts": ["a"], "images": ["a"]}}'.encode()),
        lambda: check_prompts(Picky(), ["a"]),
        lambda: quoted_text(LONG),
        lambda: quoted_text(f'"{LONG}'),
    ],
)
def test_a_long_value_is_not_repeated_whole(told):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        told()
    assert "…" in str(caught.value)
    assert 20 < len(str(caught.value)) < 1100


def test_what_a_prompt_is_understood_as_is_bounded_too():
    assert len(OCR(lambda _: []).understood(f'"{LONG}" and "{LONG}" and "{LONG}"')) < 500


def test_every_echo_goes_through_the_functions_that_cut():
    folder = Path(advantageflow.__file__).parent
    for file in folder.glob("rewards/*.py"):
        assert not re.findall(r"![rs]\}|\w\]?\[:\d+\](?:!r)?\}", file.read_text(encoding="utf-8")), file
