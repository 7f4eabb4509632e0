"""Rewards: images and prompts in, one float per image out, higher is better.

A reward is a function `(images, prompts) -> sequence of floats`, with images float32 [batch, 3, height, width] in
[0, 1] on the CPU; one that takes a third argument, `metadata`, gets the prompts' other columns, a dict each. All three
are copies of its own. It may have a method `check_prompt(prompt)` that raises ValueError for a prompt that it cannot
score; then all prompts are checked before a run starts. One that can be differentiated has
`with_gradient(images, prompts) -> Tensor [batch]`, whose images in [0, 1] are on any device. Built-in ones are
imported, and their weights loaded, when they are asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advantageflow import custom_code
from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError, shown
from advantageflow.rewards.own import find, is_address, is_of_python, is_path, make, resolve, wanted

Reward = Callable[..., Sequence[float]]


@dataclass(frozen=True)
class BuiltIn:
    """A reward that comes with the package.

    Args:
        target: "module:function", or "module:class" of which an instance is the reward.
        about: what it measures and its usual range.
        modules: what it imports beyond the core's dependencies; `pip install "advantageflow[rewards]"` has them.
        weights: hub repositories that its first use fetches.
        gradient: it has `with_gradient`.
    """

    target: str
    about: str
    modules: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    gradient: bool = False

    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]


VIT_H_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
CLIP_L = "openai/clip-vit-large-patch14"
MASK2FORMER = "facebook/mask2former-swin-small-coco-instance"
_HERE = "advantageflow.rewards"
_SCENES = "advantageflow.worlds.scenes.rewards"
BUILT_IN = {
    "scenes_graded": BuiltIn(f"{_HERE}.scenes:graded", "how much of a drawn scene is right, 0 to 1"),
    "scenes_strict": BuiltIn(
        f"{_HERE}.scenes:strict", "whether a drawn scene is right by the nearest shapes and colours, 0 or 1"
    ),
    "scenes_exact": BuiltIn(
        f"{_HERE}.scenes:exact", "whether a drawn scene is right to the eye, 0 or 1; never train on it"
    ),
    "scenes_clip": BuiltIn(
        f"{_SCENES}.clip:SceneCLIP",
        "learned likeness of a drawn scene and its prompt, -1 to 1",
        gradient=True,
    ),
    "scenes_preference": BuiltIn(
        f"{_SCENES}.preference:ScenePreference",
        "learned taste in drawn scenes, about 0 to 1",
        gradient=True,
    ),
    "pickscore": BuiltIn(
        f"{_HERE}.pickscore:PickScore",
        "human preference, about 0.8 to 0.9",
        weights=("yuvalkirstain/PickScore_v1", VIT_H_TOKENIZER),
        gradient=True,
    ),
    "hpsv2": BuiltIn(
        f"{_HERE}.hpsv2:HPSv2",
        "human preference (v2.1), about 0.2 to 0.4",
        weights=("xswu/HPSv2", VIT_H_TOKENIZER),
        gradient=True,
    ),
    "clipscore": BuiltIn(
        f"{_HERE}.clipscore:CLIPScore",
        "image-text similarity, about 0.25 to 0.32",
        weights=(CLIP_L,),
        gradient=True,
    ),
    "aesthetic": BuiltIn(
        f"{_HERE}.aesthetic:Aesthetic",
        "aesthetic rating, about 4 to 7",
        weights=(CLIP_L, "trl-lib/ddpo-aesthetic-predictor"),
        gradient=True,
    ),
    "imagereward": BuiltIn(
        f"{_HERE}.imagereward:ImageReward",
        "human preference, about -2 to 2",
        weights=("THUDM/ImageReward", "google-bert/bert-base-uncased"),
        gradient=True,
    ),
    "ocr": BuiltIn(f"{_HERE}.ocr:OCR", "quoted words that can be read, 0 to 1", modules=("rapidocr", "onnxruntime")),
    "words": BuiltIn(
        f"{_HERE}.ocr:DrawnWord", "whether a drawn word can be read, 0 to 1", modules=("rapidocr", "onnxruntime")
    ),
    "geneval": BuiltIn(
        f"{_HERE}.geneval:GenEval",
        "objects, counts, colours, positions, graded: at most 1",
        weights=(MASK2FORMER, CLIP_L),
    ),
    "geneval_strict": BuiltIn(
        f"{_HERE}.geneval:GenEvalStrict", "the same, exact: 0 or 1", weights=(MASK2FORMER, CLIP_L)
    ),
    "geneval_accuracy": BuiltIn(
        f"{_HERE}.geneval:GenEvalAccuracy",
        "the official evaluation: 0 or 1",
        weights=(MASK2FORMER, CLIP_L),
    ),
    "jpeg_incompressibility": BuiltIn(f"{_HERE}.jpeg:incompressibility", "kilobytes as JPEG"),
    "jpeg_compressibility": BuiltIn(f"{_HERE}.jpeg:compressibility", "-kilobytes as JPEG / 500"),
    "vlm": BuiltIn(f"{_HERE}.vlm:VLMJudge", "a vision-language model's verdict, 0.2 to 1", modules=("httpx",)),
}


def custom(names: Iterable[str]) -> list[str]:
    """Those of rewards that are custom code, which is not imported by this.

    Raises:
        ConfigError: custom code is refused.
    """
    found = [name for name in names if not is_address(name) and (":" in name or is_path(name))]
    for name in found:
        custom_code.check(*wanted(name, name))
    return found


def check_reward(name: str) -> None:
    """Check that a reward may be loaded, without loading its weights.

    Raises:
        ConfigError: the name is unknown, or what it needs is not installed.
    """
    if is_address(name):
        _check_installed(name, [module for module in ("httpx",) if importlib.util.find_spec(module) is None])
        from advantageflow.rewards.addresses import parse_address

        for address in name.split(","):
            parse_address(address)
    elif custom([name]):
        _find(name)
    elif name not in BUILT_IN:
        raise ConfigError(
            f"unknown reward {shown(name)}; built in are {', '.join(BUILT_IN)}{nearest(name, BUILT_IN)}; or give "
            "./my_reward.py:function, package.module:function, or the http:// address of a reward server"
        )
    else:
        _check_installed(name, BUILT_IN[name].missing())


def check_gradients(names: Iterable[str], method: str, given: Mapping[str, Reward] | None = None) -> None:
    """Check that a method may learn from the gradient of every reward, without loading weights.

    Args:
        given: name -> function of rewards that are there already.

    Raises:
        ConfigError: one has no `with_gradient`; or see `check_reward`.
    """
    for name in names:
        if given and name in given:
            able = hasattr(given[name], "with_gradient")
        else:
            check_reward(name)
            able = _has_gradient(name)
        if not able:
            whose = "the reward server" if is_address(name) else "the reward"
            others = ", ".join(each for each, reward in BUILT_IN.items() if reward.gradient)
            raise ConfigError(
                f"objective {shown(method)} learns from a reward's gradient, which {whose} {shown(name)} "
                f"does not give; set reward to any of {others}, or to your own that has with_gradient(images, prompts)"
            )


def _has_gradient(name: str) -> bool:
    if name in BUILT_IN:
        return BUILT_IN[name].gradient
    return not is_address(name) and hasattr(_find(name), "with_gradient")


def load_reward(name: str) -> Reward:
    """A built-in reward, a reward server by its address, or a function "file.py:function" or "module:function".

    Of a class an instance is made, and that is called. Files and modules are looked for in the current folder first.

    Raises:
        ConfigError: see `check_reward`, or its weights cannot be loaded, or it raises; the message has the user's own
            file and line.
    """
    check_reward(name)
    if is_address(name):
        from advantageflow.rewards.pool import RewardPool
        from advantageflow.rewards.remote import RemoteReward

        return RewardPool.of(name) if "," in name else RemoteReward(name)
    return make(name, find(name, BUILT_IN[name].target, built_in=True) if name in BUILT_IN else _find(name))


def _find(name: str) -> Callable[..., Any]:
    if is_of_python(name):
        raise ConfigError(
            f"the reward {shown(name)} was given to advantageflow.train in Python, and cannot be imported by this "
            "name; continue the run there, with resume=FOLDER and reward=THE SAME"
        )
    return find(name, resolve(name, [Path.cwd()]))


def _check_installed(name: str, missing: list[str]) -> None:
    if missing:
        raise ConfigError(
            f'the reward {shown(name)} needs {", ".join(missing)}; install with: pip install "advantageflow[rewards]"'
        )
