"""Whatever a stranger's recipe and prompt file hold, `train` is a run, or one sentence and exit code 2."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import command_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advantageflow.config import flatten, load_config
from advantageflow.objectives import names
from advantageflow.prompts.files import FORMATS
from advantageflow.reading import assign

KEYS = sorted(
    {*flatten(load_config("scenes").model_dump()), "extends", "objective", "model", "unknown"} - {"run.threads"}
)
LIKELY = {
    "objective": [*names(), "theirs:Mine", "json:loads", "nft"],
    "reward": ["scenes_graded", "theirs.py:score", "theirs:fails", {"theirs:score": 1, "scenes_graded": -1}],
    "evaluation.rewards": [{"a/b": "theirs:score"}, {"x": "scenes_strict", "../y": "theirs.py:none"}, {}],
    "evaluation.prompts_shown": [1, 9, ["a ring", "../x"], [""]],
    "evaluation.num_images": [1, 3, 10**8],
    "extends": ["scenes", "words", "scenes-nft", "recipe.yaml", "sd35m-multi"],
    "prompts.held_out": [0.5, 0.01, "scenes:held_out", "geneval:3"],
    "prompts.column": ["prompt", "x", ""],
    "rollout.solver": ["euler", "heun", "flow_sde", "cps"],
    "rollout.source": ["pairs.jsonl", "theirs.py"],
    "rollout.images_per_prompt": [2, 3, 8],
    "model.path": ["scenes", "words", "no/where", "theirs.py", ".."],
    "model.lora": ["no/where", "theirs.py", "."],
    "model.resolution": [32, [16, 32], 1],
    "model.dtype": ["bfloat16", "float16"],
    "model.device": ["cuda:9", "mps", "cpu"],
    "policy.lora_rank": [0, 1, 64],
    "advantage.normalize": ["group_std", "group_softmax"],
    "learn.optimizer": ["adamw_8bit", "adamw"],
    "learn.t_draws": [1, 9, 10**8],
    "run.best": ["reward", "none"],
}  # fmt: skip
WORDS = sorted(
    {word for values in LIKELY.values() for word in values if isinstance(word, str)} | {"~", "/dev/null", "\0"}
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 0.5, 1e-3, 10**30, 1e300, float("inf"), float("nan")])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(WORDS), SCALARS, max_size=2)
CHANGE = st.one_of(
    *[st.tuples(st.just(key), st.sampled_from(values)) for key, values in LIKELY.items()],
    st.tuples(st.sampled_from(KEYS), NUMBERS),
    st.tuples(st.sampled_from(KEYS), VALUES),
)
TEXTS = st.lists(
    st.sampled_from(["a red circle", "a blue square", '"A" b', "é, ü", "../x", " ", "\ufeff", "\0"]), max_size=4
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["prompt", "tag", "x"]), SCALARS, max_size=3), max_size=4)
WELL_FORMED = TEXTS.map(lambda texts: ["a red ring", "a green square", *texts]).flatmap(
    lambda texts: st.sampled_from(
        [
            (".txt", "\n".join(texts)),
            (".json", json.dumps(texts)),
            (".jsonl", "\n".join(json.dumps({"prompt": text, "tag": text}) for text in texts)),
            (".yaml", yaml.safe_dump(texts)),
            (".csv", "\n".join(["prompt", *(json.dumps(text) for text in texts)])),
        ]
    )
)
ODD = st.tuples(
    st.sampled_from(sorted(FORMATS)), ROWS.map(json.dumps) | ROWS.map(yaml.safe_dump) | TEXTS.map("\n".join) | st.text()
)
THEIRS = """
def score(images, prompts):
    return [0.5] * len(images)

def fails(images, prompts):
    return 1 / 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, where training ends before its first iteration and nothing is fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("advantageflow.building._train", lambda trainer, console: None)
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a ring", "chosen": "../a.png", "rejected": "b.png"}\n')
    return tmp_path


@settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    changes=st.lists(CHANGE, max_size=3),
    file=st.one_of(WELL_FORMED, WELL_FORMED, ODD),
    damage=st.sampled_from([b""] * 9 + [b"\0", b"\xff", b"{", b": ", b"- x\n"]),
    at=st.integers(0, 400),
)
def test_train_is_a_run_or_one_sentence(changes, file, damage, at, place, tiny_pipeline_folder):
    suffix, prompts = file
    number = sum(1 for _ in place.iterdir())
    recipe: dict = {"reward": "theirs.py:score", "model": {"path": str(tiny_pipeline_folder)}, "run": {"threads": 1}}
    recipe["prompts"] = {"train": f"prompts{number}{suffix}"}
    for key, value in changes:
        if isinstance(recipe.get(key.partition(".")[0], {}), dict):
            assign(recipe, key, value)
    content = yaml.safe_dump(recipe).encode()
    (place / "recipe.yaml").write_bytes(content[:at] + damage + content[at:])
    (place / f"prompts{number}{suffix}").write_bytes(prompts.encode("utf-8", "surrogatepass"))
    before = set(place.iterdir())
    code, _, told = command_line("train", "recipe.yaml", "--output", f"run{number}")
    assert set(place.iterdir()) - before <= {place / f"run{number}"}
    lines = [line for line in told.splitlines() if not line.startswith("custom code: ")]
    if code == 0:
        assert (place / f"run{number}" / "config.yaml").exists()
        assert not lines
    else:
        assert code == 2
        (line,) = lines
        assert line.startswith("error: ")
        assert len(line) <= 2500
