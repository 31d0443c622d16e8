"""Statistics of requests that follow one another: intervals and tests over blocks of them, of one policy and of pairs.

What is summed over a block of consecutive requests depends little on the next block, if blocks are long, so the block
is the unit. Intervals and p values are of one method, so that they cannot contradict each other: the wild bootstrap
over blocks with the null hypothesis imposed, of which all 2**q draws are taken. An interval is what the test does not
reject. docs/results.md says why, with the coverage that was measured and the literature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.results.classes import outputs
from traces.kit.units import counted, format_bytes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

BLOCKS = 12
LEAST = 6
"""Fewer requests than this say nothing: no interval, no test."""
VERY_FEW = BLOCKS
"""With fewer requests than this a ranking of policies turns easily: it was seen to."""
LEVEL = 0.95
Values = dict[tuple[str, int], "pd.Series[float]"]
"""By policy_label and budget_bytes: a figure by seed and request."""
FOUND = ("relative", "low", "high", "difference_ms", "p")


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


def pairs(
    values: Values, cells: pd.DataFrame, baseline: str, level: float
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """``Comparison.pairs`` and ``Comparison.overall``, and what could not be compared, in words."""
    import pandas as pd

    output = outputs(cells)
    of_class = output == output[cells["policy_label"] == baseline].iloc[0]
    budgets = set(cells["budget_bytes"][cells["policy_label"] == baseline])
    rows, overall, missing = [], [], []
    for label, own in cells[of_class & (cells["policy_label"] != baseline)].groupby("policy_label", sort=True):
        shared = {}
        for budget in sorted(own["budget_bytes"]):
            at = f"{label} at {format_bytes(budget)}"
            if budget not in budgets:
                missing.append(f"{at}: {baseline} was not run there.")
                continue
            both = pd.concat({"own": values[str(label), budget], "base": values[baseline, budget]}, axis=1).dropna()
            if both.empty:
                missing.append(f"{at}: no seed and request in common with {baseline}.")
                continue
            if {len(values[str(label), budget]), len(values[baseline, budget])} != {len(both)}:
                alike = f"{counted(_n(both, 'seed'), 'seed')} and {counted(_n(both, 'request'), 'request')}"
                missing.append(f"{at}: only {alike} are in common with {baseline}; the difference is of these alone.")
            shared[budget] = both
            about = {"policy_label": label, "budget_bytes": budget, "seeds": _n(both, "seed")}
            rows.append(about | difference(both, level))
            if np.isnan(rows[-1]["relative"]):
                missing.append(f"{at}: {baseline} takes no time there, of which there is no share.")
        if len(shared) > 1:
            ends = {"least_bytes": min(shared), "most_bytes": max(shared)}
            about = {"policy_label": label, "budgets": len(shared), **ends}
            overall.append(about | together(list(shared.values()), level))
    return (
        _tested(rows, ("policy_label", "budget_bytes", "seeds", "requests", *FOUND), level),
        _tested(overall, ("policy_label", "budgets", "least_bytes", "most_bytes", "requests", *FOUND), level),
        missing,
    )


def difference(both: pd.DataFrame, level: float = LEVEL) -> dict[str, Any]:
    """Of one policy to another on the same requests. ``both``: columns own and base in ms, by seed and request.

    There is no relative difference to a base that is 0 in a block: a machine that computes and copies in no time.
    """
    means = both.groupby(level="request", sort=True).mean()
    gaps = means["own"] - means["base"]
    found = _found(means["own"].to_numpy(), means["base"].to_numpy(), level)
    return found | {"difference_ms": gaps.mean(), "p": sign_flip(gaps)}


def together(budgets: list[pd.DataFrame], level: float = LEVEL) -> dict[str, Any]:
    """Of one policy to another over several budgets: the mean of the relative differences at each.

    ``budgets``: for each what :func:`difference` takes; of the requests that all of them have. A request is one
    observation, at however many budgets it was served: see :func:`average`.
    """
    import pandas as pd

    means = [both.groupby(level="request", sort=True).mean() for both in budgets]
    joined = pd.concat(dict(enumerate(means)), axis=1, join="inner").sort_index()
    own, base = (joined.xs(name, axis=1, level=1).to_numpy(dtype=float).T for name in ("own", "base"))
    if not len(joined) or not (base.mean(axis=1) > 0).all():
        return {"requests": len(joined), **dict.fromkeys(FOUND, float("nan"))}
    mine, others = average(own, base)
    gaps = (own - base).mean(axis=0)
    return _found(mine, others, level) | {"difference_ms": gaps.mean(), "p": sign_flip(mine - others)}


def average(own: Floats, base: Floats) -> tuple[Floats, Floats]:
    """Figures [budgets, requests] of two policies, each [requests]: budget by budget in units of the base's mean there,
    then averaged over the budgets. The ratio of their sums is the mean over budgets of the ratios of the means.

    So each budget counts alike, whether a token takes 50 ms there or 3, and a request counts once.
    """
    unit = base.mean(axis=1, keepdims=True)
    return (own / unit).mean(axis=0), (base / unit).mean(axis=0)


def _found(own: Floats, base: Floats, level: float) -> dict[str, Any]:
    found = Interval(float("nan"), None, None)
    if (blocks(base) > 0).all():
        found = relative_difference(own, base, level)
    return {"requests": len(own), "relative": found.value, "low": found.low, "high": found.high}


def _tested(rows: list[dict[str, Any]], columns: tuple[str, ...], level: float) -> pd.DataFrame:
    """A frame of differences with p values adjusted for each other (Holm): a family of its own."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns)).astype(dict.fromkeys(FOUND, "float64"))
    known = frame["p"].notna()
    frame["p_adjusted"] = np.nan
    frame.loc[known, "p_adjusted"] = holm(list(frame.loc[known, "p"]))
    frame["significant"] = frame["p_adjusted"] <= 1 - level + 1e-12
    return frame


def _n(values: pd.DataFrame, what: str) -> int:
    return len(values.index.unique(what))
