"""The engine against the textbook machine, bit for bit: all accounts, and all that a policy is told and sees."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy
from policies.lru import LRU
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FlatHost
from tests.sim.machine.early import Early
from tests.sim.machine.restless import (
    EXAMPLES,
    Bypass,
    Case,
    Lossy,
    Placing,
    Restless,
    Unruly,
    cases,
    hosted_cases,
)
from tests.sim.machine.textbook import Textbook


def compare(case: Case, kind: type[Policy], **parameters: object) -> None:
    agree(Textbook, case, kind, {}, **parameters)


@settings(EXAMPLES, max_examples=30)
@given(cases())
def test_lru_and_bypass(case: Case) -> None:
    compare(case, LRU, scope="layer" if case.by_layer else "global")
    compare(case, Bypass)


@settings(EXAMPLES, max_examples=36)
@given(cases(), st.integers(0, 50), st.integers(0, 6))
def test_restless(case: Case, own_bytes: int, eagerness: int) -> None:
    case = replace(case, setup=replace(case.setup, budget=case.setup.budget + own_bytes))
    compare(case, Restless, by_layer=case.by_layer, own_bytes=own_bytes, eagerness=eagerness)


@pytest.mark.parametrize("kind", [Unruly, Lossy])
@settings(EXAMPLES, max_examples=27)
@given(case=cases(), eagerness=st.integers(0, 4))
def test_routings_and_orders(kind: type[Restless], case: Case, eagerness: int) -> None:
    compare(case, kind, by_layer=case.by_layer, eagerness=eagerness)


@settings(EXAMPLES, max_examples=36)
@given(case=hosted_cases(), eagerness=st.integers(0, 4), last=st.booleans())
def test_places(case: Case, eagerness: int, last: bool) -> None:
    compare(case, Placing, by_layer=case.by_layer, eagerness=eagerness, last=last)


@settings(EXAMPLES, max_examples=27)
@given(case=hosted_cases(), eagerness=st.integers(0, 4), last=st.booleans(), slow=st.sampled_from([0, 0, 1, 30]))
def test_what_the_host_begins_early(case: Case, eagerness: int, last: bool, slow: int) -> None:
    """Where it is ``slow``, what it began for an event that did not want it is under way in later passes, too."""
    if slow:
        host = FlatHost(5, per_expert=20 * slow, per_token=7 * slow)
        case = replace(case, setup=replace(case.setup, host=host))
    compare(case, Early, by_layer=case.by_layer, eagerness=eagerness, last=last)
