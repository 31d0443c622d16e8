"""Statistics of requests that follow one another: intervals and tests over blocks of them.

Neighbouring requests resemble each other (topics come in runs, and a request finds what the one before it left in
memory), so that n requests are worth fewer than n independent ones. What is summed over a block of consecutive requests
depends little on the next block, if blocks are long. So the block is the unit.

Their number is fixed, BLOCKS: few long blocks keep their promise where estimated block lengths do not (Ibragimov and
Müller, Journal of Business & Economic Statistics 28, 2010). docs/results.md has the coverage that was measured.

Intervals and p values are of one method, so that they cannot contradict each other: the wild bootstrap over blocks with
the null hypothesis imposed. A draw gives each block's residual a sign; with so few blocks all 2**q draws are taken
instead of some, which makes the test a randomisation test: exact where a block's residual is as likely positive as
negative, and nearly so where that holds for long blocks (Canay, Romano and Shaikh, Econometrica 85, 2017; Canay, Santos
and Shaikh, Review of Economics and Statistics 103, 2021). An interval is what the test does not reject.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BLOCKS = 12
LEAST = 6
"""Fewer requests than this say nothing: no interval, no test."""

VERY_FEW = BLOCKS
"""With fewer requests than this a ranking of policies turns easily: it was seen to."""

LEVEL = 0.95


def few(n: int) -> str:
    """What so few requests do not bear out; "" where they are not very few."""
    if n >= VERY_FEW:
        return ""
    are = "1 request is" if n == 1 else f"{n} requests are"
    return f"{are} very few: with others, the order of the policies may turn."


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval; ``low`` and ``high`` are None where requests do not give one."""

    value: float
    low: float | None
    high: float | None


def n_blocks(n: int) -> int:
    """How many blocks n requests are cut into: BLOCKS, or one for each request where there are fewer."""
    return min(n, BLOCKS)


def blocks(values: ArrayLike) -> Floats:
    """Sums [q] over blocks of consecutive values [n], which are of equal length but for one request."""
    series = np.asarray(values, dtype=np.float64)
    return np.array([part.sum() for part in np.array_split(series, n_blocks(len(series)))])


def mean(values: ArrayLike, level: float = LEVEL) -> Interval:
    """The mean of values [n], in their order. ValueError if there are none."""
    series = np.asarray(values, dtype=np.float64)
    return ratio(series, np.ones_like(series), level)


def relative_difference(values: ArrayLike, base: ArrayLike, level: float = LEVEL) -> Interval:
    """By what share the mean of values [n] differs from that of base [n], the same requests in the same order."""
    found = ratio(values, base, level)
    low, high = (None if end is None else _less_one(end) for end in (found.low, found.high))
    return Interval(_less_one(found.value), low, high)


def _less_one(share: float) -> float:
    """``share - 1``; rounding does not keep 0 out of an interval that ends there."""
    return 0.0 if abs(share - 1) < 1e-12 else share - 1


def ratio(values: ArrayLike, base: ArrayLike, level: float = LEVEL) -> Interval:
    """Sum of values [n] over sum of base [n], which is positive: all ratios that :func:`sign_flip` of
    ``values - ratio * base`` does not reject at 1 - level. ValueError without requests or with a base that is not.

    In closed form: a draw reaches what was observed for the ratios between that of its positive blocks and that of its
    negative ones (Hartigan's typical values, Journal of the American Statistical Association 64, 1969).
    """
    a, b = blocks(values), blocks(base)
    if not len(a) or not (b > 0).all():
        raise ValueError("a ratio wants requests, and a positive base")
    value = float(a.sum() / b.sum())
    rank = math.floor((1 - level) * 2 ** len(a) - 2 + 1e-9)
    if rank < 0 or len(a) < LEAST:
        return Interval(value, None, None)
    positive = _signs(len(a))[1:-1] > 0  # the first and the last draw are all of one sign
    own, other = ((part @ a) / (part @ b) for part in (positive, ~positive))
    low, high = np.minimum(own, other), np.maximum(own, other)
    return Interval(value, float(np.partition(low, rank)[rank]), float(-np.partition(-high, rank)[rank]))


def sign_flip(differences: ArrayLike) -> float | None:
    """p value of "the mean of differences [n] is 0", two-sided, over all signs of the blocks; None if too few.

    The smallest p of q blocks is 2 / 2**q.
    """
    sums = blocks(differences)
    if len(sums) < LEAST:
        return None
    flipped = np.abs(_signs(len(sums)) @ sums)
    seen = abs(sums.sum())
    return float((flipped >= seen - 1e-9 * np.abs(sums).sum()).mean())


def least_p(n: int) -> float:
    """The smallest p value that n requests can give."""
    return float(2.0 ** (1 - n_blocks(n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for as many comparisons as there are (Holm, Scandinavian Journal of Statistics 6, 1979), as given."""
    m, worst = len(p_values), 0.0
    adjusted = [0.0] * m
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def pareto(points: ArrayLike) -> NDArray[np.bool_]:
    """The Pareto front: which of points [n, axes], each to be small, no other matches on all axes and beats on one.

    A point with a NaN is on no front and bars none from it: what is not known is not good.
    """
    given = np.asarray(points, dtype=np.float64)
    known: NDArray[np.bool_] = np.array([not np.isnan(point).any() for point in given], dtype=np.bool_)
    front = known.copy()
    for i in np.flatnonzero(known):
        no_worse = (given[known] <= given[i]).all(axis=1)
        better = (given[known] < given[i]).any(axis=1)
        front[i] = not (no_worse & better).any()
    return front


@cache
def _signs(q: int) -> Floats:
    """[2**q, q]: all signs of q blocks."""
    bits = (np.arange(2**q)[:, None] >> np.arange(q)) & 1
    return (1 - 2 * bits).astype(np.float64)
