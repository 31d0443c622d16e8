"""The tests of compare keep their rates, at a budget and over all; what is planted is found; means are of the table."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sim.results.compare import Comparison, stats
from sim.results.compare.comparison import compare, compare_runs
from sim.results.compare.stats import average, difference, together
from tests.sim.many_requests import grid, topical, under_seeds

RESAMPLINGS, REPAIRINGS, PLANTED = 200, 1000, 1.03
BUDGETS = 6
TRIALS = 800
N = 48
LEVELS = np.array([50.0, 36.0, 23.0, 13.0, 7.0, 3.5])[:, None]
"""Of a token at each budget, in ms: a factor of 14, as on the sample."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[pd.Series]:
    """TPOT of LRU under 2 x RESAMPLINGS seeds."""
    trace = topical(tmp_path_factory.mktemp("seeds") / "trace")
    return list(under_seeds(trace, range(1, 1 + 2 * RESAMPLINGS)))


def pooled(parts: list[pd.Series]) -> pd.Series:
    return pd.concat(dict(enumerate(parts)), names=["seed", "request"])


@pytest.mark.parametrize("pool", [1, 3])
def test_a_policy_does_not_differ_from_itself_under_other_seeds(seeds: list[pd.Series], pool: int) -> None:
    """At most at the nominal rate. What one request loses to the order another wins, so that it is some 3 %, not 5."""
    drawn, found = np.random.default_rng(1), []
    for _ in range(REPAIRINGS):
        picked = drawn.choice(len(seeds), 2 * pool, replace=False)
        own, base = (pooled([seeds[i] for i in half]) for half in np.split(picked, 2))
        found.append(difference(pd.concat({"own": own, "base": base}, axis=1)))
    moved = sum(it["difference_ms"] != 0 for it in found)
    assert moved > 0.9 * REPAIRINGS, "the order of the requests makes no difference here: nothing is tested"
    _, high = scipy.stats.binom.interval(0.999, REPAIRINGS, 0.05)
    assert 0.01 * REPAIRINGS <= sum(it["p"] <= 0.05 for it in found) <= high
    for it in found:
        assert (it["p"] > 0.05) == (it["low"] <= 0 <= it["high"])


def test_a_planted_difference_is_found(seeds: list[pd.Series]) -> None:
    noise = np.random.default_rng(0)
    found = []
    for i in range(0, len(seeds), 4):
        base = pooled(seeds[i : i + 2])
        own = PLANTED * base * noise.normal(1, 0.05, len(base))
        found.append(difference(pd.concat({"own": own, "base": base}, axis=1)))
    assert sum(it["p"] <= 0.05 for it in found) > 0.9 * len(found)
    covers = sum(it["low"] <= PLANTED - 1 <= it["high"] for it in found)
    low, _ = scipy.stats.binom.interval(0.999, len(found), 0.95)
    assert covers >= low


def served(drawn: np.random.Generator, effect: float, shared: float = 0.5) -> tuple[stats.Floats, stats.Floats]:
    """Times [budgets, requests] of a policy and of the baseline, whose mean is lower by ``effect`` everywhere.

    Requests are long or short at all budgets alike. How a policy does on one is by part, ``shared``, the same at every
    budget: six budgets are not six times the requests.
    """
    length = drawn.lognormal(0, 0.4, N)
    common, own = drawn.normal(0, 0.08, N), drawn.normal(0, 0.08, (BUDGETS, N))
    scatter = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    base = LEVELS * length * drawn.lognormal(0, 0.05, (BUDGETS, N))
    return base * (1 - effect) * (1 + scatter), base


def p_values(effect: float, shared: float = 0.5) -> Iterator[tuple[float, list[float]]]:
    """Over all budgets, and at each."""
    drawn = np.random.default_rng(5)
    for _ in range(TRIALS if effect == 0 else TRIALS // 4):
        own, base = served(drawn, effect, shared)
        averaged = average(own, base)
        alone = [stats.sign_flip(a - b) for a, b in zip(own, base, strict=True)] if effect else []
        yield float(stats.sign_flip(averaged[0] - averaged[1]) or 0), [float(p or 0) for p in alone]


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_no_policy_differs_from_itself_more_often_than_promised(shared: float) -> None:
    """Also where the budgets say the same thing six times over."""
    found = np.array([p for p, _ in p_values(0, shared)])
    low, high = scipy.stats.binom.interval(0.999, TRIALS, 0.05)
    assert low <= (found <= 0.05).sum() <= high


def test_a_small_difference_is_found_that_no_single_budget_shows() -> None:
    """3 % everywhere, six policies: Holm over 6 tests, where 36 stand at single budgets."""
    overall, alone = zip(*p_values(0.03), strict=True)
    together_ = np.mean([p <= 0.05 / 6 for p in overall])
    single = np.mean([min(ps) <= 0.05 / 36 for ps in alone])
    assert together_ > 0.4
    assert together_ > 1.5 * single


def test_an_interval_covers_what_was_planted() -> None:
    drawn, covers, trials = np.random.default_rng(9), 0, 300
    for _ in range(trials):
        found = stats.relative_difference(*average(*served(drawn, 0.04)))
        assert found.low is not None
        assert found.high is not None
        covers += found.low <= -0.04 <= found.high
    low, _ = scipy.stats.binom.interval(0.999, trials, 0.95)
    assert covers >= low - 0.03 * trials, "up to three points fewer: times are log-normal"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("overall")
    trace = topical(folder / "trace", n=30)
    return compare(grid(trace, folder / "out", ("lru", "fifo", "lfu_incache"), (4, 6, 8), (0,)))


def test_it_is_the_mean_of_the_differences_in_the_table(found: Comparison) -> None:
    assert list(found.overall["policy_label"]) == ["fifo", "lfu_incache"]
    for row in found.overall.itertuples():
        own = found.pairs[found.pairs["policy_label"] == row.policy_label]
        assert row.relative == pytest.approx(own["relative"].mean(), rel=1e-12)
        assert row.difference_ms == pytest.approx(own["difference_ms"].mean(), rel=1e-12)
        assert (row.budgets, row.requests) == (3, 30)
        assert (row.least_bytes, row.most_bytes) == (own["budget_bytes"].min(), own["budget_bytes"].max())
        assert row.low <= row.relative <= row.high
        assert (row.p > 0.05) == (row.low <= 0 <= row.high)
    assert list(found.overall["p_adjusted"]) == stats.holm(list(found.overall["p"])), "a family of its own"


def test_the_same_budget_six_times_is_one_budget() -> None:
    """Neither more certain nor less: budgets are not requests."""
    own, base = served(np.random.default_rng(1), 0.03)
    index = pd.MultiIndex.from_product([[0], range(N)], names=["seed", "request"])
    one = pd.DataFrame({"own": own[0], "base": base[0]}, index=index)
    once, six = together([one]), together([one] * 6)
    assert six == {key: pytest.approx(value, rel=1e-12) for key, value in once.items()}


def test_only_requests_that_every_budget_has_are_averaged(found: Comparison) -> None:
    runs, budgets = found.runs, sorted(set(found.runs["budget_bytes"]))
    requests = pd.DataFrame(
        [
            {"policy_label": label, "budget_bytes": budget, "seed": 0, "request": i, "tpot_ns": 1e6 * (1 + i)}
            for label in ("lru", "fifo")
            for budget in budgets
            for i in range(30)
            if not (label == "fifo" and budget == budgets[0] and i < 6)
        ]
    )
    two = runs[runs["policy"].isin(["lru", "fifo"])]
    overall = compare_runs(two, requests).overall.iloc[0]
    assert (overall["budgets"], overall["requests"], overall["relative"]) == (3, 24, 0)
    elsewhere = two[(two["policy"] == "lru") | (two["budget_bytes"] != budgets[1])]
    fewer = compare_runs(
        elsewhere, requests[requests["budget_bytes"].ne(budgets[1]) | requests["policy_label"].eq("lru")]
    )
    assert fewer.overall["budgets"].iloc[0] == 2
    alone = elsewhere["budget_bytes"] == budgets[0]
    one = compare_runs(elsewhere[alone], requests[requests["budget_bytes"] == budgets[0]])
    assert one.overall.empty
    assert len(one.pairs) == 1
