"""Every reward is asked once before anything long begins."""

import re
import socket
import sys

import pytest

from advantageflow.cli import main
from advantageflow.config import ConfigError, ModelSettings
from advantageflow.models import picture_size
from advantageflow.prompts import PromptSet
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.scoring import RewardError
from advantageflow.rewards.trial import try_rewards

PROMPTS = PromptSet(("a ring", "two circles"), ("x", "x"), metadata=({"count": 1}, {"count": 2}))


def test_a_reward_is_called_once_on_a_grey_picture_with_a_real_prompt_and_its_columns():
    seen = []

    def reward(images, prompts, metadata):
        seen.append((tuple(images.shape), images.unique().tolist(), prompts, metadata))
        return [1.0]

    try_rewards({"mine": reward}, {"mine": PROMPTS}, (16, 32))
    assert seen == [((1, 3, 16, 32), [0.5], ["a ring"], [{"count": 1}])]


def test_a_failure_has_the_users_own_file_and_line_and_is_not_asked_again():
    calls = []

    def broken(images, prompts):
        calls.append(1)
        return images.mean((1, 2, 3)) / {}["no such key"]

    with pytest.raises(RewardError, match=rf"'mine' failed: KeyError: 'no such key' \({__file__} line \d+\)"):
        try_rewards({"mine": broken}, {"mine": PROMPTS}, (8, 8))
    assert calls == [1]


def test_servers_are_asked_for_their_health_before_any_reward_is_called():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        calls = []
        with pytest.raises(ConfigError, match=rf"the reward server {url} cannot be reached: ConnectError"):
            try_rewards(
                {"mine": lambda images, prompts: calls.append(1), "far": RemoteReward(url)},
                {"mine": PROMPTS, "far": PROMPTS},
                (8, 8),
            )
    assert calls == []


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"path": "scenes"}, (64, 64)),
        ({"path": "words"}, (64, 64)),
        ({"path": "scenes", "resolution": 128}, (128, 128)),
        ({"path": "owner/name", "resolution": (512, 768)}, (512, 768)),
        ({"path": "owner/name"}, (1024, 1024)),
    ],
)
def test_the_picture_has_the_models_size(settings, size):
    assert picture_size(ModelSettings(**settings)) == size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["train", "scenes", "reward=./mine.py:score", "--output", "run"], r"KeyError: 'x' \(.*mine\.py line 4\)"),
        (
            ["train", "scenes", "evaluation.rewards={a: mine:score}", "--output", "run"],
            r"KeyError: 'x' \(.*mine\.py line 4\)",
        ),
        (["evaluate", "scenes", "--reward", "./mine.py:score"], r"KeyError: 'x' \(.*mine\.py line 4\)"),
        (["train", "scenes", "reward=http://127.0.0.1:9", "--output", "run"], "cannot be reached"),
        (["train", "scenes", "reward=./mine.py:quits", "--output", "run"], "it raised SystemExit"),
        (["evaluate", "scenes", "--reward", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_a_bad_reward_ends_a_command_before_it_begins(line, message, tmp_path, monkeypatch, capsys):
    text = "import sys\ndef score(images, prompts):\n    assert images.shape == (1, 3, 64, 64)\n    return {}['x']\n"
    (tmp_path / "mine.py").write_text(text + "def quits(images, prompts):\n    sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["advantageflow", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["mine.py"]
