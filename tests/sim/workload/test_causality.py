"""The contract of causality once more, through what is shipped: a trace on disk, TraceSignals and ClosedLoop."""

from collections.abc import Callable

import pytest

from policies import registry
from sim.check.synthetic import some_history
from sim.check.variants import Variant, variants
from sim.core.core import Core
from sim.core.log import replay
from sim.workload.passes import ClosedLoop
from tests.sim.workload.causal import SEEDS, Recorded, assert_causal, play, shipped

CAUSAL = [v for v in variants() if not registry.find(v.name).clairvoyant]


@pytest.mark.parametrize(("seed", "batch"), SEEDS)
@pytest.mark.parametrize("variant", CAUSAL, ids=str)
def test_nothing_is_decided_by_what_comes_later(
    variant: Variant, seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    given = recorded(seed, batch, variant.layers)
    setup = variant.roomy(given.setup)
    assert_causal(variant.build, Recorded(setup, batch, given.trace, given.others))


@pytest.mark.parametrize(("seed", "batch"), SEEDS)
@pytest.mark.parametrize("variant", CAUSAL, ids=str)
def test_budget_accounts_determinism_and_clockless_replay(
    variant: Variant, seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    given = recorded(seed, batch, variant.layers)
    setup = variant.roomy(given.setup)
    core, accounts = play(variant.build(setup), given.trace, batch)  # the witness checks the budget at every answer
    accounts.check()
    if core.policy.lossless:
        passes = ClosedLoop(given.trace, batch).passes(range(4))
        assert accounts.hit_row()[0] == sum(len(set(demand)) for step in passes for demand in step.demand)
    again, same = play(variant.build(setup), given.trace, batch)
    assert (again.log, again.digest(), same) == (core.log, core.digest(), accounts)
    fresh = variant.build(setup)
    if fresh.wants_history():
        fresh.fit(some_history(setup))
    assert replay(core.log, Core(fresh, setup, shipped(given.trace, fresh))) == core.digest()
