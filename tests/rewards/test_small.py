"""JPEG size and the vision-language judge."""

import base64
import json
from io import BytesIO

import httpx
import pytest
import torch
from PIL import Image

from advantageflow.config import ConfigError
from advantageflow.rewards.jpeg import compressibility, incompressibility
from advantageflow.rewards.vlm import VLMJudge


def test_noise_needs_more_bytes_than_a_plain_image():
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = torch.stack([noise, torch.full((3, 64, 64), 0.5)])
    noisy, plain = incompressibility(images, ["", ""])
    assert noisy > 5 * plain
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(buffer, format="JPEG", quality=95)
    assert plain == buffer.tell() / 1000
    assert compressibility(images, ["", ""]) == [-noisy / 500, -plain / 500]


def judge(answer):
    seen = []

    def respond(request):
        seen.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": answer}}]})

    client = httpx.Client(transport=httpx.MockTransport(respond))
    return VLMJudge("http://127.0.0.1:1/v1/", client=client), seen


def test_the_judge_is_asked_with_picture_and_prompt():
    reward, seen = judge("Alignment is good.\nFinal Score: 4")
    assert reward(torch.zeros(2, 3, 16, 16), ["a cup", "a dog"]) == [0.8, 0.8]
    picture, text = seen[0]["messages"][0]["content"]
    assert text["text"].endswith(("Text Caption: [a cup]", "Text Caption: [a dog]"))
    blob = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    assert Image.open(BytesIO(blob)).size == (512, 512)
    assert seen[0]["temperature"] == 0


def test_an_answer_without_a_score_is_an_error():
    reward, _ = judge("I like it.")
    with pytest.raises(ValueError, match=r"gave no 'Final Score: 1-5' for 'a cup'; it said 'I like it.'"):
        reward(torch.zeros(1, 3, 16, 16), ["a cup"])


def test_the_judge_needs_an_address(monkeypatch):
    monkeypatch.delenv("ADVANTAGEFLOW_VLM_URL", raising=False)
    with pytest.raises(ConfigError, match="set ADVANTAGEFLOW_VLM_URL"):
        VLMJudge()
