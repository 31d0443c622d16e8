"""The clairvoyant policies, through the engine."""

import random
import struct
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import libcachesim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Setup
from policies.bounds.reference_rows import BeladyForced, OracleAhead, PerfectNextLayer
from sim.core.accounts import COMPLETE, LOOKUPS, RECALL
from sim.machine.link import Link
from sim.workload.passes import Pass
from tests.policies.bounds.toy import Lab, ToyCosts, one_by_one, random_lab


def misses(lab: Lab) -> int:
    return lab.run(BeladyForced(lab.setup)).demand_bytes  # one byte each


def fewest_misses(sequence: list[int], slots: int) -> int:
    """Every choice of victim, admission forced."""

    @cache
    def least(i: int, content: frozenset[int]) -> int:
        if i == len(sequence):
            return 0
        x = sequence[i]
        if x in content:
            return least(i + 1, content)
        rests = [content] if len(content) < slots else [content - {victim} for victim in content]
        return 1 + min(least(i + 1, rest | {x}) for rest in rests)

    return least(0, frozenset())


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=25), st.integers(1, 5))
def test_belady_forced_equals_exhaustive_search(sequence: list[int], slots: int) -> None:
    assert misses(one_by_one(sequence, 6, slots)) == fewest_misses(sequence, slots)


@pytest.mark.parametrize("slots", [1, 2, 7, 20, 63])
def test_belady_forced_equals_libcachesim_to_the_last_hit(slots: int, tmp_path: Path) -> None:
    """Its Belady evicts before it admits, the farthest next access first: admission is forced there too.

    What is never accessed again it neither admits nor keeps, but room is made for it all the same: no hit differs.
    """
    rng = np.random.default_rng(slots)
    sequence = (rng.zipf(1.2, 1500) % 64).tolist()
    _, told = zip(*one_by_one(sequence, 64, slots).future().events(), strict=True)
    file = tmp_path / "trace.oracleGeneral"
    with file.open("wb") as out:
        for time, (x, [then]) in enumerate(zip(sequence, told, strict=True)):
            # time, object (0 is not allowed), size, next access (-1: none)
            out.write(struct.pack("<IQIq", time, x + 1, 1, -1 if then == len(sequence) else then))
    reader = libcachesim.TraceReader(
        str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE, libcachesim.ReaderInitParam()
    )
    ratio, _ = libcachesim.Belady(cache_size=slots).process_trace(reader)
    assert misses(one_by_one(sequence, 64, slots)) == round(ratio * len(sequence))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 9))
def test_one_slot_more_makes_up_for_forced_admission(sequence: list[int], slots: int) -> None:
    """What is bypassed can pass through that slot: the bound is tight to within one slot."""
    lab, more = one_by_one(sequence, 10, slots), one_by_one(sequence, 10, slots + 1)
    assert more.bypass() <= misses(more) <= lab.bypass() <= misses(lab)


@pytest.mark.parametrize("budget", [800, 1200, 3000])
def test_on_a_fast_link_perfect_next_layer_stalls_at_the_first_event_only(budget: int) -> None:
    L, E, K = 4, 16, 4
    rng = np.random.default_rng(0)
    costs = ToyCosts(overhead=1, bytes_per_ns=Fraction(1000), expert=100, dense=200, launch=10)
    passes = []
    for t in range(50):
        demand = [(layer * E + rng.choice(E, K, replace=False)).tolist() for layer in range(L)]
        passes.append(Pass(False, (0,), [(t, 1)], 1, t + 1, t + 1, demand, [[1] * K] * L))
    lab = Lab(Setup(L, E, K, (100,) * L, 2, budget, costs), costs, passes)
    accounts = lab.run(PerfectNextLayer(lab.setup))
    first, *rest = (list(map(sum, zip(*phases, strict=True))) for phases in zip(*accounts.stall_ns, strict=True))
    assert first[0] > 0
    assert sum(first[1:]) + sum(map(sum, rest)) == 0
    lookups = accounts.hit_row()
    assert lookups[RECALL] == lookups[COMPLETE] == lookups[LOOKUPS] - 4
    assert accounts.fates[0] == accounts.issued  # every prefetch is useful


class Watched:
    """Holds a clairvoyant policy to what it promises, at each of its decisions."""

    def victim(self, incoming: int, speculative: bool) -> int | None:
        victim = super().victim(incoming, speculative)
        can = [x for x in range(len(self.next_use)) if self.view.evictable(x)]
        farthest = max(can, key=lambda x: (self.next_use[x], x), default=None)
        if speculative and can and self.next_use[farthest] <= self.next_use[incoming]:
            farthest = None
        assert victim == farthest
        return victim


class WatchedForced(Watched, BeladyForced):
    pass


class WatchedPerfect(Watched, PerfectNextLayer):
    refetched = 0

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        if expert in self.coming:
            assert self.view.loading(expert)
            self.refetched += 1


class WatchedAhead(Watched, OracleAhead):
    pass


@pytest.mark.parametrize("watched", [WatchedForced, WatchedPerfect, WatchedAhead])
def test_victims_are_the_farthest_and_what_is_needed_next_is_fetched_again(watched: type) -> None:
    refetched = 0
    for seed in range(60):
        lab = random_lab(random.Random(seed))
        if seed % 2:  # hardly any room
            budget = max(lab.setup.expert_bytes) + seed % 16
            lab = replace(lab, setup=replace(lab.setup, budget=budget, chunks=1 + seed % 5), depth=1 + seed % 3)
        policy = watched(lab.setup)
        lab.run(policy)
        refetched += getattr(policy, "refetched", 1)
    assert refetched > 0


def test_the_oracle_leaves_the_link_idle_only_where_nothing_is_to_be_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is needed next and absent then finds no room, and nothing that is needed later can go for it."""
    idle = 0

    class Watching(Link):
        def hand_over(self, now: int) -> None:
            super().hand_over(now)
            state, policy = self.core.state, self.core.policy
            uses, never = policy.next_use, policy.future.n_events
            experts = range(len(uses))
            absent = [x for x in experts if not state.slot[x] and not state.pinned[x] and uses[x] < never]
            if absent and len(self.under_way) < self.depth:
                nonlocal idle
                idle += 1
                first = min(uses[x] for x in absent)
                assert not any(uses[x] == first and state.fits(x) for x in absent)
                assert all(uses[x] <= first for x in experts if policy.view.evictable(x))

    monkeypatch.setattr("sim.machine.machine.Link", Watching)
    for seed in range(50):
        lab = random_lab(random.Random(seed))
        lab.run(OracleAhead(lab.setup))
    assert idle > 50


def test_the_oracle_hides_a_burst_that_one_layer_ahead_does_not() -> None:
    """A pass takes 3 ns to its gate, 4 for its expert and 2 after it; a copy 20. Only the first copy is waited for."""
    lab = one_by_one([0] * 10 + [1, 2, 3], 4, 4, ns=20)
    ended = [lab.run(policy(lab.setup)).end_ns for policy in (OracleAhead, PerfectNextLayer, BeladyForced)]
    assert ended[0] == 20 + 4 + 2 + 12 * 9 < ended[1] < ended[2]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 40))
def test_with_room_for_all_the_oracle_waits_for_the_link_alone(sequence: list[int], copy: int) -> None:
    """All that is needed is copied without a pause, in the order of need: nobody can be earlier."""
    lab, order, now = one_by_one(sequence, 6, 6, ns=copy), list(dict.fromkeys(sequence)), 0
    for x in sequence:
        now = max(now + 3, copy * (order.index(x) + 1)) + 4 + 2
    assert lab.run(OracleAhead(lab.setup)).end_ns == now
