"""Slow copies follow the learner as published."""

import pytest

from advantageflow.decay import Decay, decay_of


def test_the_schedules_of_arxiv_2509_16117():
    assert [decay_of(0)(step) for step in (0, 1000)] == [0.0, 0.0]
    assert [decay_of(1)(step) for step in (0, 100, 500, 900)] == pytest.approx([0, 0.1, 0.5, 0.5])
    assert [decay_of(2)(step) for step in (0, 74, 75)] == [0, 0, 0]
    assert [decay_of(2)(step) for step in (76, 208, 209, 1000)] == pytest.approx([0.0075, 0.9975, 0.999, 0.999])


def test_a_constant_stays_and_its_copy_may_move_now_and_then_only():
    assert [decay_of(0.9)(step) for step in (0, 1000)] == [0.9, 0.9]
    assert decay_of(0.9, every=5).every == decay_of(1, every=5).every == 5


def test_the_old_policy_of_arxiv_2603_14128():
    old = Decay(base=0.25, slope=0.005, limit=0.999)
    assert [old(step) for step in (0, 50, 149, 1000)] == pytest.approx([0.25, 0.5, 0.995, 0.999])


@pytest.mark.parametrize("schedule", [3, -1, 1.5])
def test_no_other_number_is_a_schedule(schedule):
    with pytest.raises(ValueError, match="use 0, 1, 2, or a constant"):
        decay_of(schedule)


@pytest.mark.parametrize("wrong", [{"base": 1.0}, {"limit": 1.0}, {"slope": -0.1}, {"start": -1}, {"every": 0}])
def test_a_copy_that_never_moves_or_flees_is_refused(wrong):
    with pytest.raises(ValueError, match="is no decay"):
        Decay(**wrong)
