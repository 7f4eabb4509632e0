"""Statistics against closed forms, scipy, and what is known of synthetic data."""

import numpy as np
import pytest
from scipy import stats

from advantageflow.statistics import (
    bootstrap,
    bootstrap_band,
    bootstrap_mean,
    holm,
    interpolate_curves,
    mean_interval,
    paired_difference,
    paired_p_value,
    pooled_spread,
    time_ratio,
    time_to_reach,
)


def test_the_bootstrap_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=20)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.01)
    general = bootstrap(values, lambda chosen: values[chosen].mean(), resamples=5000)
    assert (general.value, general.low, general.high) == pytest.approx((ours.value, ours.low, ours.high), abs=0.02)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(rng.normal(0.3, 1, size=30), resamples=500) for _ in range(400)]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in found])
    assert 0.90 <= covered <= 0.97  # percentile intervals of 30 samples are a little narrow


def test_bands_are_pointwise_intervals():
    curves = np.random.default_rng(0).normal(size=(12, 3)) + np.array([0.0, 5.0, 10.0])
    low, high = bootstrap_band(curves, resamples=20_000)
    for point in range(3):
        interval = bootstrap_mean(curves[:, point], resamples=20_000)
        assert (low[point], high[point]) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_the_paired_test_is_scipys_and_uses_the_pairing():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=8)
    first, second = 0.1 + shared + 0.02 * rng.normal(size=8), shared
    assert paired_p_value(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired_p_value(first, second) < 0.001 < stats.ttest_ind(first, second).pvalue
    assert paired_p_value([1.0, 2.0], [1.0, 2.0]) is None
    assert paired_p_value([1.5, 2.5], [1.0, 2.0]) is None
    assert paired_p_value([0.1 + 0.2, 0.7], [0.2, 0.6]) is None  # equal but for rounding


def test_the_paired_test_finds_what_is_there_and_little_else():
    rng = np.random.default_rng(0)
    false = np.mean([paired_p_value(rng.normal(size=5), rng.normal(size=5)) < 0.05 for _ in range(2000)])
    assert 0.03 < false < 0.07
    power = np.mean([paired_p_value(rng.normal(2, 1, size=5), np.zeros(5)) < 0.05 for _ in range(500)])
    expected = 1 - stats.nct.cdf(stats.t.ppf(0.975, 4), 4, 2 * np.sqrt(5))
    assert power == pytest.approx(expected, abs=0.05)


def test_the_paired_difference_has_scipys_interval():
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    ours, theirs = paired_difference(first, second), stats.ttest_rel(first, second).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.value == pytest.approx((first - second).mean())


def test_few_proportions_have_intervals_of_their_own():
    """Wilson's; that of no difference at all is not empty."""
    some = mean_interval([1.0, 0.0, 0.0, 0.0])
    assert (some.low, some.high) == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert some.plus_minus() == "0.250 [0.046, 0.699]"
    none = mean_interval([0.0] * 4)
    assert none.low == 0.0
    assert none.high == pytest.approx(0.4899, abs=1e-4)
    alike = paired_difference([0.0] * 4, [0.0] * 4)
    assert (alike.value, alike.low < 0 < alike.high) == (0.0, True)


def test_paired_proportions_are_covered():
    """Of 40 images, right with chances .3 and .5 that hang together, 95 % of the intervals hold the difference."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        common = rng.random(40)
        ours, theirs = (common < 0.5).astype(float), ((common + 0.1 * rng.random(40)) % 1 < 0.3).astype(float)
        found = paired_difference(ours, theirs)
        held += found.low <= 0.2 <= found.high
    assert 0.92 <= held / 400 <= 1.0


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": None, "b": 0.04, "c": 0.03}) == pytest.approx({"a": None, "b": 0.06, "c": 0.06})


def test_time_to_reach_a_score():
    times, scores = [0.0, 10.0, 20.0, 30.0], [0.2, 0.4, 0.3, 0.8]
    assert time_to_reach(times, scores, 0.3) == pytest.approx(5.0)
    assert time_to_reach(times, scores, 0.55) == pytest.approx(25.0)
    assert time_to_reach(times, scores, 0.1) == 0.0
    assert time_to_reach(times, scores, 0.9) == float("inf")


def test_a_method_that_is_twice_as_fast_has_the_ratio_one_half():
    times = np.linspace(0, 10, 21)
    slow = [(times, np.minimum(0.05 * times, 0.5) + offset) for offset in (0.0, 0.01, -0.01)]
    fast = [(times, np.minimum(0.10 * times, 0.7) + offset) for offset in (0.0, 0.01, -0.01)]
    found = time_ratio(fast, slow, resamples=200)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert time_ratio(slow, slow, resamples=50).value == 1.0
    assert time_ratio(slow, fast, resamples=50).value == float("inf")


def test_curves_are_joined_on_common_times():
    curves = interpolate_curves([([0, 2], [0.0, 1.0]), ([0, 1], [0.0, 1.0])], np.array([0.0, 1.0, 2.0]))
    assert curves.tolist() == [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]


def test_a_pooled_spread_is_that_of_an_analysis_of_variance():
    one, other = (0.61, 0.66, 0.64), (0.71, 0.75, 0.69, 0.72)
    spread = pooled_spread([one, other])
    assert spread.freedom == 5
    difference, variance = np.mean(other) - np.mean(one), 1 / 3 + 1 / 4
    known = stats.ttest_ind(other, one)
    assert spread.p_value(difference, variance) == pytest.approx(known.pvalue)
    found, ends = spread.interval(difference, variance), known.confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_single_values_and_equal_ones_have_no_spread():
    assert pooled_spread([[0.6], [0.7]]) is None
    assert pooled_spread([[0.6, 0.6], [0.7]]) is None
    assert pooled_spread([[0.6, 0.7], [0.9]]) == pooled_spread([[0.6, 0.7]])
