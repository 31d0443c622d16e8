"""Intervals cover, tests keep their rate, and both see what is there: on made-up requests whose truth is known."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sim.results.compare import stats

TRUTH = 20.0


def requests(rng: np.random.Generator, n: int, neighbours: float) -> np.ndarray:
    """An autoregressive series [n] of mean 0 and innovations of 2."""
    noise = rng.normal(0, 2, n + 50)
    made = np.empty(n + 50)
    made[0] = noise[0]
    for i in range(1, n + 50):
        made[i] = neighbours * made[i - 1] + noise[i]
    return made[50:]


def tolerated(rate: float, trials: int) -> tuple[int, int]:
    """Counts that a binomial variable leaves once in a thousand."""
    low, high = scipy.stats.binom.interval(0.999, trials, rate)
    return int(low), int(high)


@pytest.mark.parametrize(("n", "neighbours"), [(48, 0.0), (120, 0.5), (200, 0.6)])
def test_intervals_cover_at_the_nominal_rate(n: int, neighbours: float) -> None:
    rng, trials = np.random.default_rng(2), 400
    covered = {"mean": 0, "ratio": 0, "one by one": 0}
    for _ in range(trials):
        base = TRUTH + requests(rng, n, neighbours)
        own = 1.03 * base + requests(rng, n, neighbours) / 4
        found, ratio = stats.mean(base), stats.relative_difference(own, base)
        covered["mean"] += found.low <= TRUTH <= found.high
        covered["ratio"] += ratio.low <= 0.03 <= ratio.high
        naive = scipy.stats.t.ppf(0.975, n - 1) * base.std(ddof=1) / n**0.5
        covered["one by one"] += abs(base.mean() - TRUTH) <= naive
    low, high = tolerated(0.95, trials)
    assert low <= covered["mean"] <= high
    assert low <= covered["ratio"] <= high
    if neighbours:
        assert covered["one by one"] < low, "the requests here are not such that blocks are needed"


def test_a_level_is_kept() -> None:
    rng, trials = np.random.default_rng(3), 400
    covered = sum(
        found.low <= 0 <= found.high
        for found in (stats.mean(requests(rng, 120, 0.4), level=0.8) for _ in range(trials))
    )
    low, high = tolerated(0.8, trials)
    assert low <= covered <= high


@pytest.mark.parametrize(("n", "neighbours"), [(16, 0.0), (200, 0.6)])
def test_false_positives_come_at_the_nominal_rate(n: int, neighbours: float) -> None:
    rng, trials = np.random.default_rng(4), 1000
    positives = sum(stats.sign_flip(requests(rng, n, neighbours)) <= 0.05 for _ in range(trials))
    low, high = tolerated(0.05, trials)
    assert low <= positives <= high


def test_a_difference_of_three_percent_is_found() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(100):
        base = TRUTH + requests(rng, 60, 0.4)
        own = 1.03 * base + rng.normal(0, 0.5, 60)
        interval = stats.relative_difference(own, base)
        found.append(stats.sign_flip(own - base) <= 0.05 and interval.low > 0)
    assert sum(found) >= 95


@given(st.lists(st.integers(-100_000, 100_000), min_size=6, max_size=40))
def test_the_test_is_that_of_scipy(values: list[int]) -> None:
    """On whole numbers, of which sums are exact: where draws tie but for rounding, scipy tells them apart."""
    sums = stats.blocks(values)
    theirs = scipy.stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert stats.sign_flip(values) == pytest.approx(theirs, abs=1e-9)


def test_p_values_by_hand() -> None:
    assert stats.sign_flip([1.0] * 12) == 2 / 2**12 == stats.least_p(12)
    assert stats.sign_flip([1.0] * 500) == stats.least_p(500)
    assert stats.sign_flip([1.0, -1.0] * 6) == 1
    assert stats.sign_flip([0.0] * 12) == 1
    assert stats.sign_flip([1.0] * 7) == 2 / 2**7
    assert stats.sign_flip([1.0] * 5) is None


def test_holm_by_hand() -> None:
    # 0.01 x 3, 0.02 x 2, then 0.03 x 1, which may not fall below the one before.
    assert stats.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_blocks_are_of_neighbours_and_lose_nothing() -> None:
    assert list(stats.blocks(np.arange(24))) == [2 * i + 2 * i + 1 for i in range(12)]
    assert len(stats.blocks(np.ones(13))) == 12
    assert stats.blocks(np.ones(13)).sum() == 13
    assert list(stats.blocks([3, 4])) == [3, 4]


def test_no_interval_where_requests_give_none() -> None:
    assert stats.mean([1.0, 2, 3, 4, 5]) == stats.Interval(3.0, None, None)
    assert stats.mean([7.0] * 20) == stats.Interval(7.0, 7.0, 7.0)
    assert stats.mean(np.arange(6.0), level=0.99) == stats.Interval(2.5, None, None)
    exactly = stats.relative_difference([1.1 * x for x in range(1, 21)], list(range(1, 21)))
    assert (exactly.value, exactly.low, exactly.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="positive"):
        stats.ratio([1.0] * 6, [0.0] * 6)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [6, 9, 12, 40])
def test_an_interval_is_what_the_test_does_not_reject(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    base = TRUTH + requests(rng, n, 0.3)
    own = base + requests(rng, n, 0.3)
    found = stats.ratio(own, base, level)
    assert found.low < found.value < found.high
    inside, outside = 1e-6, -1e-6
    for end, inward in ((found.low, 1), (found.high, -1)):
        assert stats.sign_flip(own - (end + inward * inside) * base) > 1 - level
        assert stats.sign_flip(own - (end + inward * outside) * base) <= 1 - level


def test_rounding_does_not_move_an_end_past_zero() -> None:
    """Draws that tie with what was seen: the interval ends at 0 exactly, and holds it, as the test does."""
    base = np.array([15.0, 8, 19, 11, 17, 7, 6, 16, 11, 11, 9, 15])
    gaps = np.array([0.2, -0.1, 0.2, 0, 0.1, -0.1, 0.2, 0.1, 0.2, 0, 0.1, 0.1])
    assert 0.05 < stats.sign_flip(gaps) < 0.051
    assert stats.relative_difference(base + gaps, base).low == 0


def test_one_outlier_does_not_make_the_interval_absurd() -> None:
    found = stats.mean([1.0] * 11 + [1000.0])
    assert 0.9 < found.low < found.value < found.high < 1001


def test_an_interval_is_of_the_unit_it_is_given_in() -> None:
    values = TRUTH + requests(np.random.default_rng(6), 60, 0.3)
    ms, ns = stats.mean(values), stats.mean(values * 1e6)
    assert (ns.low, ns.high) == pytest.approx((ms.low * 1e6, ms.high * 1e6))
