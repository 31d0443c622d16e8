"""The tests of compare keep their rates: no policy differs from itself, and a planted difference is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sim.results.compare.pairing import difference
from tests.sim.many_requests import topical, under_seeds

RESAMPLINGS = 200
REPAIRINGS = 1000
PLANTED = 1.03


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
