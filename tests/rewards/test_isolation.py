"""Rewards share nothing: neither with each other, nor with the pictures that are kept, nor with the process."""

import os
import sys
import threading
from decimal import Decimal

import numpy as np
import pytest
import torch

from advantageflow.errors import NonFiniteError
from advantageflow.rewards.scoring import RewardError, Scorer, score

PROMPTS = ["a ring", "two circles"]


def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def vandal(images, prompts, metadata):
    images.zero_()
    prompts.clear()
    for row in metadata:
        row["tags"].append("mine")
    metadata.clear()
    return [0.0, 0.0]


def test_what_a_reward_changes_reaches_no_other_and_not_the_pictures():
    kept, prompts, metadata = images(), list(PROMPTS), [{"tags": ["a"]}, {"tags": ["b"]}]
    seen = []

    def reads(images, prompts, metadata):
        seen.append((images.clone(), prompts, metadata))
        return brightness(images, prompts)

    scorer = Scorer({"first": vandal, "second": reads, "third": vandal, "fourth": reads})
    scorer.submit(kept, prompts, metadata)
    found = scorer.results()
    assert torch.equal(kept, images())
    assert (prompts, metadata) == (PROMPTS, [{"tags": ["a"]}, {"tags": ["b"]}])
    assert torch.equal(found["second"], brightness(images(), PROMPTS).double())
    assert torch.equal(found["second"], found["fourth"])
    for pictures, texts, columns in seen:
        assert torch.equal(pictures, images())
        assert (texts, columns) == (PROMPTS, metadata)


def test_a_view_of_the_pictures_is_a_copy_too():
    whole = images()
    score("vandal", lambda images, prompts: images.zero_()[:, 0, 0, 0], whole[:, :, ::2].transpose(2, 3), PROMPTS)
    score("vandal", lambda images, prompts: images.fill_(1)[:, 0, 0, 0], whole[:1].expand(2, 3, 8, 8), PROMPTS)
    assert torch.equal(whole, images())


def test_a_second_attempt_sees_the_pictures_that_the_first_did():
    calls = []

    def spoils_once(images, prompts):
        value = brightness(images, prompts)
        images.zero_()
        calls.append(1)
        return value if len(calls) > 1 else [float("nan")] * 2

    assert torch.equal(score("x", spoils_once, images(), PROMPTS, attempts=2), brightness(images(), PROMPTS).double())


def test_an_answer_that_a_reward_keeps_and_changes_stays_as_it_was():
    buffer = np.zeros(2)

    def reused(images, prompts):
        buffer[:] += 1
        return buffer

    first = score("reused", reused, images(), PROMPTS)
    score("reused", reused, images(), PROMPTS)
    assert first.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        torch.tensor([0.0, 1.0], requires_grad=True),
        torch.tensor([[0.0], [1.0]], requires_grad=True) * 1,
        torch.tensor([0, 1], dtype=torch.int16),
        torch.tensor([False, True]),
        torch.tensor([0, 1], dtype=torch.bfloat16),
        [torch.tensor(0.0, requires_grad=True), torch.tensor([1.0])],
        np.array([0, 1], dtype=np.float16),
        (np.float32(0), np.int64(1)),
        [False, True],
        [Decimal(0), Decimal(1)],
        (float(i) for i in range(2)),
        map(float, range(2)),
        [[0], [1]],
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_one_number_per_image_in_any_dress(answer):
    values = score("mine", lambda images, prompts: answer, images(), PROMPTS)
    assert values.dtype == torch.float64
    assert not values.requires_grad
    assert values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        None, 0.5, "01", b"01", {0: 1.0, 1: 2.0}, {0.0, 1.0}, ["0", "1"], [None, 1.0], [1j, 2j], [10**400, 1],
        [[0, 1], [2, 3]], [[], [1]], [0.0, float("nan")], [float("inf"), 0.0], [0.0], [0.0, 1.0, 2.0],
        (1.0 for _ in iter(int, 1)), object(), torch.tensor(0.5), torch.zeros(2, 2), torch.zeros(1, 2),
        torch.zeros(2, dtype=torch.complex64), np.array(["a", "b"]), np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=lambda answer: repr(answer)[:20],
)  # fmt: skip
def test_anything_else_is_refused_by_the_rewards_name_and_line(answer):
    with pytest.raises(
        RewardError, match=r"the reward 'mine' (failed: it )?returned .*test_isolation\.py line \d+\)$"
    ) as caught:
        score("mine", lambda images, prompts: answer, images(), PROMPTS)
    assert len(str(caught.value)) < 700


def test_for_one_image_a_bare_number_is_refused_as_it_would_be_for_two():
    with pytest.raises(RewardError, match=r"returned 0\.5, a float; return a list, one float per image"):
        score("mean", lambda images, prompts: images.mean().item(), torch.full((1, 3, 8, 8), 0.5), ["a ring"])


@pytest.mark.parametrize("wrong", [[float("nan"), 1.0], [1.0], "none"], ids=str)
def test_nonsense_is_asked_again(wrong):
    answers = iter([wrong, [1.0, 2.0]])
    assert score("mine", lambda images, prompts: next(answers), images(), PROMPTS, attempts=2).tolist() == [1.0, 2.0]
    with pytest.raises(RewardError, match="in each of 3 attempts"):
        score("mine", lambda images, prompts: wrong, images(), PROMPTS, attempts=3)


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("end", [SystemExit(0), SystemExit("bye"), GeneratorExit(), KeyboardInterrupt()], ids=repr)
def test_a_reward_cannot_end_the_process(end, timeout):
    def ends(images, prompts):
        raise end

    scorer = Scorer({"ends": ends}, timeout=timeout)
    scorer.submit(images(), PROMPTS)
    with pytest.raises(RewardError, match=rf"it raised {type(end).__name__}, and .*test_isolation\.py line \d+\)$"):
        scorer.results()


def test_ctrl_c_stays_ctrl_c():
    def interrupted(images, prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score("x", interrupted, images(), PROMPTS)


def test_the_users_own_line_is_told_and_not_the_librarys():
    def wrong(images, prompts):
        return torch.nn.functional.linear(images, torch.zeros(3, 5))

    line = wrong.__code__.co_firstlineno + 1
    with pytest.raises(RewardError, match=rf"RuntimeError: .*\({__file__} line {line}\)$"):
        score("wrong", wrong, images(), PROMPTS)
    with pytest.raises(RewardError, match=rf"TypeError: .*takes 1 positional .*\({__file__} line \d+\)$"):
        score("lonely", lambda images: [0.0, 0.0], images(), PROMPTS)


def test_a_long_error_is_cut():
    def talkative(images, prompts):
        raise ValueError("x" * 10**6)

    with pytest.raises(RewardError) as caught:
        score("talkative", talkative, images(), PROMPTS)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("timeout", [None, 30])
def test_the_process_stays_as_it_was(tmp_path, timeout):
    folder = os.getcwd()

    def untidy(images, prompts):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        os.chdir(tmp_path)
        return [0.0, 0.0]

    score("untidy", untidy, images(), PROMPTS, timeout=timeout)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.zeros(1).device.type == "cpu"
    assert torch.as_tensor(torch.empty(1, device="meta")).device.type == "meta"  # no device is set as the default
    assert os.getcwd() == folder


def test_untidy_rewards_side_by_side_leave_nothing_either():
    inside, go = threading.Barrier(2), threading.Event()

    def changes(images, prompts):
        torch.set_default_dtype(torch.float64)
        inside.wait(10)
        return [0.0, 0.0]

    def starts_while_it_is_changed(images, prompts):
        inside.wait(10)
        go.wait(10)
        return [0.0, 0.0]

    scorer = Scorer({"a": changes, "b": starts_while_it_is_changed})
    scorer.submit(images(), PROMPTS)
    go.set()
    scorer.results()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_reward_sees_pictures_that_are_not_finite(value):
    asked = []
    pictures = images()
    pictures[1, 2, 3, 4] = value
    message = r"picture of sample {} \(prompt 'two circles'\) has pixels that are not finite"
    with pytest.raises(NonFiniteError, match=message.format(1)):
        score("x", lambda images, prompts: asked.append(1) or [0.0, 0.0], pictures, PROMPTS, attempts=3)
    scorer = Scorer({"x": lambda images, prompts: asked.append(1) or [0.0, 0.0]})
    scorer.submit(images(), PROMPTS)
    scorer.results()
    scorer.submit(images(), PROMPTS)
    with pytest.raises(NonFiniteError, match=message.format(3)):
        scorer.submit(pictures, PROMPTS)
    scorer.results()
    assert len(asked) == 2


class Third:
    def __call__(self, images, prompts, metadata=None):
        return [row["count"] for row in metadata]


def test_pictures_are_checked_once_however_many_rewards_see_them(monkeypatch):
    checked = []
    monkeypatch.setattr("advantageflow.rewards.scoring.check_pictures", lambda *given: checked.append(given[2]))
    scorer = Scorer({name: lambda images, prompts: [0.0, 0.0] for name in "abc"})
    for _ in range(2):
        scorer.submit(torch.zeros(2, 3, 4, 4), ["a", "b"])
    assert len(scorer.results()["c"]) == 4
    assert checked == [0, 2]


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (lambda images, prompts, metadata: [row["count"] for row in metadata], True),
        (lambda images, prompts, rows: [row["count"] for row in rows], True),
        (Third(), True),
        (lambda images, prompts, count=7: [count] * 2, False),
        (lambda images, prompts, *, count=7: [count] * 2, False),
        (lambda *arguments: [7] * 2 if len(arguments) == 2 else None, False),
    ],
)
def test_a_third_argument_gets_the_metadata(reward, told):
    metadata = [{"count": 3}, {"count": 4}]
    assert score("x", reward, images(), PROMPTS, metadata).tolist() == ([3, 4] if told else [7, 7])


def test_a_reward_that_wants_metadata_gets_an_empty_row_where_there_is_none():
    assert score("x", lambda images, prompts, metadata: [len(row) for row in metadata], images(), PROMPTS).sum() == 0


def test_the_process_ends_with_code_2_where_a_reward_calls_exit(monkeypatch, tmp_path, capsys):
    from advantageflow.cli import main

    (tmp_path / "quits.py").write_text("import sys\n\ndef score(images, prompts):\n    sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["advantageflow", "rewards", "check", "./quits.py:score"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "it raised SystemExit, and may not end the process" in capsys.readouterr().err
