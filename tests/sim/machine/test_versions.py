"""Experts in several versions: the engine against the textbook machine, bit for bit, and laws of what they are."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import LayerEvent, Routing, Setup
from policies.lru import LRU
from sim.check.witness import VersionedWitness
from sim.core.several import core_of
from sim.core.state import CoreError
from sim.core.versions import VersionedCore
from sim.machine.machine import Machine
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FlatCosts, NoSignals, decode, make_setup, simulate, some_passes
from tests.sim.machine.restless import EXAMPLES, Case
from tests.sim.machine.textbook import Textbook
from tests.sim.machine.version_cases import AnyVersion, version_cases


@settings(EXAMPLES, max_examples=15)
@given(case=version_cases(), eagerness=st.integers(0, 4), pools=st.booleans())
def test_any_version(case: Case, eagerness: int, pools: bool) -> None:
    agree(Textbook, case, AnyVersion, {}, by_layer=case.by_layer, pools=pools, eagerness=eagerness)


@settings(EXAMPLES, max_examples=10)
@given(case=version_cases(), pools=st.booleans())
def test_the_budget_of_each_pool_holds_at_every_answer(case: Case, pools: bool) -> None:
    """And lookups, loads and bytes by version are what the witness counts for itself."""
    core = VersionedWitness(AnyVersion(case.setup, by_layer=case.by_layer, pools=pools), case.setup, NoSignals())
    accounts = Machine(core, case.costs, depth=case.depth, lanes=case.lanes).run((), [*case.warmup, *case.passes])  # type: ignore[arg-type]
    accounts.check()
    core.compare(accounts)


def low(setup: Setup) -> Setup:
    return replace(setup, dtype="own", others={"low": (4,) * setup.n_layers}).with_versions(["low"])


class Planned(LRU):
    """Routes each event to what it is told."""

    name = "planned"
    lossless = False

    def __init__(self, setup: Setup, plan: dict[int, int]) -> None:
        super().__init__(low(setup))
        self.plan, self.declared = plan, True

    def route(self, event: LayerEvent) -> Routing:
        demand = [self.plan.get(x, x) for x in event.demand]
        lower = sum(n for x, n in zip(demand, event.tokens, strict=True) if x >= self.setup.n_all)
        return Routing(demand, event.tokens, slots=sum(event.tokens), low_precision=lower * self.declared)

    def on_gate(self, event: LayerEvent) -> None:
        pass

    def on_slot(self, expert: int) -> None:
        self.pools[0].add(expert)

    on_evict = LRU.on_evict

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.pools[0].lowest(self.view.evictable)


SHAPE = (16, 16)  # of two layers with four experts each, so that item 8 + x is x in the lower version


def planned(plan: dict[int, int], **given: bool) -> Planned:
    policy = Planned(make_setup(SHAPE, 4, 1000, costs=FlatCosts(per_copy=0)), plan)
    vars(policy).update(given)
    return policy


def test_an_expert_in_a_lower_version_copies_and_counts_its_own_bytes() -> None:
    passes = decode([[[0, 1], [2, 3]]] * 2, 4)
    policy = planned({0: 8, 6: 14})
    accounts, core = simulate(policy, policy.setup, passes)
    accounts.check()
    assert isinstance(core, VersionedCore)
    own, lower = accounts.by_version
    assert (own.loads, own.copied_bytes, own.lookups, own.complete) == (2, 32, 4, 2)
    assert (lower.loads, lower.copied_bytes, lower.lookups, lower.complete) == (2, 8, 4, 2)
    assert accounts.demand_bytes == 40
    assert accounts.hit_row()[4:6] == [40, 80]
    assert core.state.peak == 40


def test_who_has_both_versions_holds_both() -> None:
    first, then = planned({0: 8}), decode([[[0], [1]]], 4)
    accounts, core = simulate(first, first.setup, then)
    assert not core.state.slot[0]
    first.plan.clear()
    assert [core.state.slot[x] for x in (8, 5)] == [1, 1]
    assert accounts.by_version[1].lookups == 1


@pytest.mark.parametrize(
    ("plan", "declared", "why"),
    [
        ({0: 8, 1: 0}, True, "an expert twice"),
        ({0: 16}, True, "versions that there are not: \\[16\\]"),
        ({0: 12}, True, "experts of another layer: \\[4\\]"),
        ({0: 8}, False, "1 tokens in a lower precision, and states 0"),
    ],
)
def test_a_routing_to_what_cannot_be_stops(plan: dict[int, int], declared: bool, why: str) -> None:
    policy = planned(plan, declared=declared)
    with pytest.raises(CoreError, match=f"policy planned routes layer 0 to {why}"):
        simulate(policy, policy.setup, decode([[[0, 1], [2, 3]]], 4))


def test_pools_are_of_versions_and_neither_of_layers_nor_of_one() -> None:
    policy = planned({})
    policy.version_budgets = lambda: [500, 500]  # type: ignore[method-assign]
    core_of(policy, policy.setup, NoSignals())
    type(policy).version_budgets = lambda _: [500, 500]  # type: ignore[method-assign]
    try:
        policy.layer_budgets = lambda: [100] * 4  # type: ignore[method-assign]
        with pytest.raises(CoreError, match="has a pool per version"):
            core_of(policy, policy.setup, NoSignals())
    finally:
        del type(policy).version_budgets


def test_setup_knows_item_version_and_expert() -> None:
    setup = low(make_setup(SHAPE, 4, 1000))
    assert (setup.versions, setup.expert_bytes) == (("own", "low"), (16, 16, 4, 4))
    for version, expert in [(0, 0), (0, 7), (1, 0), (1, 5)]:
        item = setup.item(expert, version)
        seen = setup.version_of(item), setup.expert_of(item), setup.layer_of(item), setup.bytes_of(item)
        assert seen == (version, expert, expert // 4, 4 if version else 16)
    with pytest.raises(ValueError, match=r"no size of an expert in .'int2'.; there are .'low'."):
        setup.with_versions(["int2"])


def test_one_version_is_as_if_there_were_no_other() -> None:
    setup, passes = make_setup(SHAPE, 4, 60), some_passes(2, 4, 30)
    alone, core = simulate(LRU(setup), setup, passes)
    beside = replace(setup, dtype="own", others={"low": (4, 4)})
    again, other = simulate(LRU(beside), beside, passes)
    assert core.digest() == other.digest()
    assert alone == again
    assert not again.by_version
