"""A vision-language model as judge, behind any server that speaks OpenAI's chat protocol (vLLM, SGLang, ...).

The instruction is the one UnifiedReward (Wang et al., 2025) was trained with, as in
arXiv 2509.16117's code.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
from PIL import Image
from torch import Tensor

from advantageflow.errors import ConfigError, cut, shown
from advantageflow.pictures import to_pil
from advantageflow.rewards.addresses import ask, open_client, parse_address, sendable

INSTRUCTION = (
    "<image>\nYou are given a text caption and a generated image based on that caption. Your task is to evaluate this "
    "image based on two key criteria:\n"
    "1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the accuracy "
    "of depicted objects, their relationships, and attributes as described in the caption.\n"
    "2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, color "
    "accuracy, and overall aesthetic appeal.\n"
    "Based on the above criteria, assign a score from 1 to 5 after 'Final Score:'.\n"
    "Your task is provided as follows:\nText Caption: [{prompt}]"
)
FINAL_SCORE = re.compile(r"Final Score:\s*([1-5](?:\.\d+)?)")
IMAGE_SIZE = 512
TIMEOUT = 120.0  # seconds


class VLMJudge:
    """The judge's final score / 5, in [0.2, 1].

    Settings come from the environment: ADVANTAGEFLOW_VLM_URL (http://127.0.0.1:17140/v1), ADVANTAGEFLOW_VLM_MODEL
    and, if the server asks for one, ADVANTAGEFLOW_VLM_KEY, which is sent to that address and to no other. Unlike the
    official code, an answer without a score is an error rather than a 0.
    """

    def __init__(self, url: str = "", model: str = "", client: httpx.Client | None = None, parallel: int = 16) -> None:
        given = os.environ.get("ADVANTAGEFLOW_VLM_URL", "")
        if not (url or given):
            raise ConfigError(
                "the reward 'vlm' needs a server: set ADVANTAGEFLOW_VLM_URL, such as http://127.0.0.1:17140/v1"
            )
        address = parse_address(url or given)
        own = url in ("", given)
        self.key = sendable(os.environ.get("ADVANTAGEFLOW_VLM_KEY", ""), "ADVANTAGEFLOW_VLM_KEY") if own else None
        self.url = f"{address}/chat/completions"
        self.model = model or os.environ.get("ADVANTAGEFLOW_VLM_MODEL", "UnifiedReward-7b-v1.5")
        self.client = client or open_client(address, self.key, TIMEOUT)
        self.parallel = parallel

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width].

        Raises:
            ValueError: an answer holds no score; httpx.TransportError: the server does not answer.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._judge, to_pil(images), prompts))

    def _judge(self, picture: Image.Image, prompt: str) -> float:
        buffer = BytesIO()
        picture.resize((IMAGE_SIZE, IMAGE_SIZE)).save(buffer, format="PNG")
        url = "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": INSTRUCTION.format(prompt=prompt)},
        ]
        message = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        status, _, body = ask(self.client, self.url, body=json.dumps(message), token=self.key, timeout=TIMEOUT)
        try:
            answer = json.loads(body)["choices"][0]["message"]["content"]
            found = FINAL_SCORE.search(answer)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            told = shown(body[:1000].decode(errors="replace"))
            raise ValueError(f"{cut(self.url)} gave no chat's answer but status {status}: {told}") from error
        if found is None:
            raise ValueError(f"the judge gave no 'Final Score: 1-5' for {shown(prompt)}; it said {shown(answer)}")
        return float(found[1]) / 5
