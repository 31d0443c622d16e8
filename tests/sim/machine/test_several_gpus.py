"""Several GPUs: the engine against the textbook machine, bit for bit: accounts, what is told, what is seen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy
from policies.lru import LRU
from sim.core.pools import Pools
from tests.sim.machine.against import agree
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Lossy, Restless, Unruly
from tests.sim.machine.several_cases import spread_cases
from tests.sim.machine.textbook_gpus import TextbookGpus


def compare(case: Case, kind: type[Policy], **parameters: object) -> None:
    slow, core = agree(TextbookGpus, case, kind, {"root": case.root}, **parameters)
    assert isinstance(core.state, Pools)
    assert core.state.pool_peak == slow.peaks


@settings(EXAMPLES, max_examples=12)
@given(spread_cases())
def test_lru_and_bypass(case: Case) -> None:
    compare(case, LRU, scope="layer" if case.by_layer else "global")
    compare(case, Bypass)


@pytest.mark.parametrize("kind", [Restless, Unruly, Lossy])
@settings(EXAMPLES, max_examples=12)
@given(case=spread_cases(), eagerness=st.integers(0, 4))
def test_restless(kind: type[Restless], case: Case, eagerness: int) -> None:
    compare(case, kind, by_layer=case.by_layer, eagerness=eagerness)
