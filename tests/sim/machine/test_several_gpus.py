"""Several GPUs: the engine against the textbook machine, bit for bit; then laws."""

from dataclasses import asdict, replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy, Setup
from policies.lru import LRU
from sim.core.pools import Pools
from tests.sim.machine.cases import NoSignals, record
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Lossy, Restless, Told, Unruly, cases
from tests.sim.machine.textbook_gpus import TextbookGpus


@st.composite
def spread_cases(draw: st.DrawFn) -> Case:
    """Cases whose experts lie anywhere on two to four GPUs."""
    case, gpus = draw(cases()), draw(st.integers(2, 4))
    n_all = case.setup.n_layers * case.setup.n_experts
    homes = draw(st.lists(st.integers(0, gpus - 1), min_size=n_all, max_size=n_all))
    durations = st.sampled_from([0, 0, 1, 3, 10, 50])
    costs = replace(case.costs, per_peer=draw(durations), per_peer_token=draw(durations))
    root = draw(st.sampled_from([None, None, Fraction(1, 7), Fraction(1), Fraction(5, 2)]))
    budget = gpus * draw(st.integers(case.setup.budget // 2, case.setup.budget)) + draw(st.integers(0, gpus - 1))
    setup = replace(case.setup, costs=costs, gpus=gpus, homes=homes, budget=budget)
    least = LRU(setup, scope="layer" if case.by_layer else "global").min_budget()
    return replace(case, setup=replace(setup, budget=max(budget, least)), costs=costs, root=root)


def compare(case: Case, kind: type[Policy], **parameters: object) -> None:
    made: list[Policy] = []

    def make(setup: Setup) -> Policy:
        made.append(kind(setup, **parameters))
        return made[-1]

    slow = TextbookGpus(
        make(case.setup),
        case.setup,
        NoSignals(),
        case.costs,
        case.depth,
        policy_ns=case.policy_ns,
        lanes=case.lanes,
        root=case.root,
    )
    expected = slow.run(case.warmup, case.passes)
    expected.check()
    accounts, core = record(
        make,
        case.setup,
        case.passes,
        warmup=case.warmup,
        depth=case.depth,
        lanes=case.lanes,
        policy_ns=case.policy_ns,
        root=case.root,
    )
    if isinstance(made[0], Told):
        for i, (by_textbook, by_engine) in enumerate(zip(made[0].told, made[1].told, strict=False)):
            assert by_engine == by_textbook, i
        assert len(made[0].told) == len(made[1].told)
        assert made[1].told == made[2].told
    assert asdict(accounts) == asdict(expected)
    assert isinstance(core.state, Pools)
    assert (core.state.peak, core.state.pool_peak) == (slow.peak, slow.peaks)


@settings(EXAMPLES, max_examples=30)
@given(spread_cases())
def test_lru_and_bypass(case: Case) -> None:
    compare(case, LRU, scope="layer" if case.by_layer else "global")
    compare(case, Bypass)


@pytest.mark.parametrize("kind", [Restless, Unruly, Lossy])
@settings(EXAMPLES, max_examples=30)
@given(case=spread_cases(), eagerness=st.integers(0, 4))
def test_restless(kind: type[Restless], case: Case, eagerness: int) -> None:
    compare(case, kind, by_layer=case.by_layer, eagerness=eagerness)
