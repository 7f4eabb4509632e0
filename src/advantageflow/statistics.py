"""Statistics over seeds: intervals, paired tests, and the time that one method needs to reach another's best."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from scipy import stats

RESAMPLES = 10_000
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def plus_minus(self) -> str:
        """Such as "0.694 ± 0.032"; where the ends are not as far from the value, "0.250 [0.046, 0.699]"."""
        if not math.isfinite(self.half_width):
            return f"{self.value:.3f}"
        even = abs(self.low + self.high - 2 * self.value) < 1e-3
        return f"{self.value:.3f} ± {self.half_width:.3f}" if even else str(self)

    def plain(self) -> dict[str, float | None]:
        """As JSON, which knows no infinity and no NaN: None is "never", or "unknown"."""
        parts = {"value": self.value, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in parts.items()}


def bootstrap(
    samples: Sequence[object], statistic: Callable[[list[int]], float], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap over independent samples, such as seeds.

    Args:
        samples: only their number matters.
        statistic: of a list of indices into `samples`, with repetitions.
    """
    count = len(samples)
    rng = np.random.default_rng(seed)
    once = cache(lambda chosen: statistic(list(chosen)))  # three samples can be drawn in 27 ways only
    values = [once(tuple(rng.integers(count, size=count).tolist())) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")  # a value may be infinite
    return Interval(statistic(list(range(count))), float(low), float(high))


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean with its bootstrap interval."""
    array = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[drawn].mean(1), [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


def bootstrap_band(curves: np.ndarray, seed: int = 0, resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the mean curve's pointwise 95 % interval; `curves` is [seeds, points]."""
    drawn = np.random.default_rng(seed).integers(len(curves), size=(resamples, len(curves)))
    low, high = np.quantile(curves[drawn].mean(1), [0.025, 0.975], axis=0)
    return low, high


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided paired t-test across seeds; None where all differences are equal: no spread, no test."""
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if np.allclose(differences, differences[0], rtol=1e-9, atol=1e-15):
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The mean of first - second across images with its interval: of two proportions Newcombe's, else t's.

    Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data"
    (1998), method 10.
    """
    ours, theirs = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not (_is_proportion(ours) and _is_proportion(theirs)):
        return t_interval(ours - theirs)
    one, other = mean_interval(ours), mean_interval(theirs)
    both, mine = (ours * theirs).sum(), (ours * (1 - theirs)).sum()
    yours, neither = ((1 - ours) * theirs).sum(), ((1 - ours) * (1 - theirs)).sum()
    spread = math.sqrt((both + mine) * (yours + neither) * (both + yours) * (mine + neither))
    agreement = both * neither - mine * yours
    if agreement > 0:  # corrected for continuity
        agreement = max(agreement - len(ours) / 2, 0.0)
    correlation = float(agreement / spread) if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    value = one.value - other.value
    low = value - reach(one.value - one.low, other.high - other.value)
    return Interval(value, low, value + reach(one.high - one.value, other.value - other.low))


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of images' scores with an interval that is honest for few, too: of 0 and 1 Wilson's (1927), else t's."""
    array = np.asarray(values, dtype=float)
    if not _is_proportion(array):
        return t_interval(array)
    mean = float(array.mean())
    found = stats.binomtest(int(array.sum()), len(array)).proportion_ci(method="wilson")
    return Interval(mean, min(float(found.low), mean), max(float(found.high), mean))


def t_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean with Student's interval; of a single value the ends are NaN."""
    array = np.asarray(values, dtype=float)
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, count - 1) * array.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Spread:
    """What values of one group differ by, taken to be the same in all groups, as in an analysis of variance.

    deviation: the standard deviation within groups.
    freedom: the degrees of freedom that it is estimated with.
    """

    deviation: float
    freedom: int

    def interval(self, value: float, variance: float) -> Interval:
        """Student's, of an estimate whose variance is so many times that of a single value."""
        half = float(stats.t.ppf(0.975, self.freedom)) * self.deviation * math.sqrt(variance)
        return Interval(value, value - half, value + half)

    def p_value(self, value: float, variance: float) -> float:
        """Two-sided, of an estimate being 0."""
        return float(2 * stats.t.sf(abs(value) / (self.deviation * math.sqrt(variance)), self.freedom))


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread within groups, of all that have several values; None where it cannot be told, or there is none."""
    several = [np.asarray(group, dtype=float) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in several)
    return Spread(math.sqrt(squares / freedom), freedom) if squares > 0 else None


def _is_proportion(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def mean_of_means(parts: Sequence[Interval]) -> Interval:
    """Their plain mean, as of tasks; the ends' distances add up in squares, those below and those above apart."""
    value = sum(part.value for part in parts) / len(parts)
    below, above = (
        math.sqrt(sum(distance**2 for distance in distances)) / len(parts)
        for distances in zip(*((part.value - part.low, part.high - part.value) for part in parts), strict=True)
    )
    return Interval(value, value - below, value + above)


def holm(p_values: Mapping[Name, float | None]) -> dict[Name, float | None]:
    """P-values corrected for their number (Holm, 1979): each is at most what Bonferroni gives.

    None, where nothing was tested, stays None and does not count.
    """
    corrected: dict[Name, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    ordered = sorted((value, rank, name) for rank, (name, value) in enumerate(p_values.items()) if value is not None)
    for rank, (value, _, name) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * value))
        corrected[name] = largest
    return corrected


def interpolate_curves(curves: Sequence[tuple[Sequence[float], Sequence[float]]], grid: np.ndarray) -> np.ndarray:
    """Scores of (times, scores) curves at common times, linear in between: [curves, points].

    After a curve's end its last score holds.
    """
    return np.stack([np.interp(grid, times, scores) for times, scores in curves])


def time_to_reach(times: Sequence[float] | np.ndarray, scores: Sequence[float] | np.ndarray, target: float) -> float:
    """When a curve, linear between its points, first reaches `target`; infinity if it never does."""
    if scores[0] >= target:
        return float(times[0])
    for (t0, s0), (t1, s1) in zip(
        zip(times, scores, strict=True), zip(times[1:], scores[1:], strict=True), strict=False
    ):
        if s1 >= target:
            return float(t0 + (t1 - t0) * (target - s0) / (s1 - s0))
    return float("inf")


def time_ratio(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    baseline: Sequence[tuple[Sequence[float], Sequence[float]]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Time to the baseline's best mean score, as a share of the time that the baseline itself needs for it.

    Seeds are resampled in pairs, since prompts and noise are shared. Below 1 the method is faster; infinity means that
    it does not get there.

    Args:
        curves, baseline: (times, scores) of each seed, seeds in the same order.
    """
    grid = np.unique(np.concatenate([times for times, _ in (*curves, *baseline)]))
    ours, theirs = interpolate_curves(curves, grid), interpolate_curves(baseline, grid)

    def ratio(chosen: list[int]) -> float:
        mean, other = ours[chosen].mean(0), theirs[chosen].mean(0)
        target = other.max()
        return time_to_reach(grid, mean, target) / max(time_to_reach(grid, other, target), 1e-12)

    return bootstrap(curves, ratio, seed, resamples)
