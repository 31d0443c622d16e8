"""Several GPUs: the engine against the textbook machine, bit for bit: accounts, what is told, what is seen."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy, Setup
from policies.lru import LRU
from sim.core.pools import Pools
from tests.sim.machine.cases import NoSignals, record
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Lossy, Restless, Told, Unruly
from tests.sim.machine.several_cases import spread_cases
from tests.sim.machine.textbook_gpus import TextbookGpus


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
