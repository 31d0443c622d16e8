"""A disk below host memory: the engine against the textbook machine, bit for bit, and the laws of the tier."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy
from policies.bounds.future import Future
from policies.lru import LRU
from sim.core.accounts import STALLS
from sim.core.host_memory import HostTier
from sim.core.state import CoreError
from sim.experiment.disk_bound import disk_floor
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FREE_COMPUTE, FlatCosts, FlatDisk, decode, make_setup, simulate, some_passes
from tests.sim.machine.disk_cases import tiered_cases
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Placing, Restless, Unruly, cases
from tests.sim.machine.textbook_disk import TextbookDisk

Tiered = tuple[Case, HostTier, FlatDisk]


def compare(tiered: Tiered, kind: type[Policy], **parameters: object) -> None:
    case, tier, disk = tiered
    agree(TextbookDisk, case, kind, {"tier": tier, "disk": disk}, **parameters)


@settings(EXAMPLES, max_examples=8)
@given(tiered_cases())
def test_lru_and_bypass(tiered: Tiered) -> None:
    compare(tiered, LRU, scope="layer" if tiered[0].by_layer else "global")
    compare(tiered, Bypass)


@pytest.mark.parametrize("kind", [Restless, Unruly])
@settings(EXAMPLES, max_examples=8)
@given(tiered=tiered_cases(), eagerness=st.integers(0, 4))
def test_restless(kind: type[Restless], tiered: Tiered, eagerness: int) -> None:
    compare(tiered, kind, by_layer=tiered[0].by_layer, eagerness=eagerness)


@settings(EXAMPLES, max_examples=8)
@given(case=cases(), eagerness=st.integers(0, 4))
def test_a_host_that_holds_all_experts_is_no_tier(case: Case, eagerness: int) -> None:
    """To the nanosecond and the last decision, whatever the disk would cost."""
    setup = case.setup
    given = {"warmup": case.warmup, "depth": case.depth, "lanes": case.lanes, "policy_ns": case.policy_ns}
    made = [Unruly(setup, by_layer=case.by_layer, eagerness=eagerness) for _ in range(2)]
    usual, core = simulate(made[0], setup, case.passes, **given)
    tier = HostTier(setup.n_experts * sum(setup.expert_bytes))
    tiered, above = simulate(made[1], setup, case.passes, tier=tier, disk=FlatDisk(), **given)
    assert above.digest() == core.digest()
    assert tiered.tier is not None
    assert tiered.tier.read_bytes == 0
    tiered.tier = None
    assert asdict(tiered) == asdict(usual)


@settings(EXAMPLES, max_examples=10)
@given(tiered=tiered_cases())
def test_nothing_is_read_faster_or_less_than_must_be(tiered: Tiered) -> None:
    case, tier, disk = tiered
    setup = case.setup
    accounts, _ = simulate(
        LRU(setup), setup, case.passes, warmup=case.warmup, depth=case.depth, lanes=case.lanes, tier=tier, disk=disk
    )
    future = Future.of((d for step in case.passes for d in step.demand), setup.n_layers * setup.n_experts)
    warm = bool(case.warmup)
    floor = disk_floor(future, setup, tier.capacity, disk.reads(setup), warm=warm)
    assert accounts.tier is not None
    pages = accounts.tier.page_cache
    assert (accounts.tier.read_bytes if pages is None else pages.disk_bytes) >= floor.nbytes
    assert accounts.wall_ns >= floor.ns
    assert accounts.tier.hits <= accounts.tier.lookups
    assert accounts.tier.peak_bytes <= tier.capacity


def by_hand(*, chunks: int = 1, exclusive: bool = False, steps: list[list[list[int]]] | None = None) -> list[int]:
    """The stalls of three experts of 8 bytes, of which the host is filled with the first two, and the GPU holds one.

    A copy takes 8 ns, a read 1 + 16, a way back 8; an expert takes 3.
    """
    costs = replace(FREE_COMPUTE, per_copy=0, per_token=3)
    setup = make_setup([8], 3, 8, chunks=chunks, costs=costs)
    disk, tier = FlatDisk(per_read=1, per_byte=2, per_back=0), HostTier(16, exclusive=exclusive)
    passes = decode(steps or [[[2]], [[0]], [[2]]], 3)
    accounts, _ = simulate(LRU(setup), setup, passes, tier=tier, disk=disk)
    return accounts.stall_row()


DISK, COPY = STALLS.index("disk_read"), STALLS.index("demand_copy")


def test_a_miss_of_both_is_read_then_copied() -> None:
    """2 is read in the place of 0, then 0 in that of 1; the host still holds 2 when it is wanted again."""
    stalls = by_hand()
    assert (stalls[DISK], stalls[COPY], sum(stalls)) == (17 + 17, 3 * 8, 17 + 17 + 3 * 8)


def test_chunks_are_copied_while_others_are_read() -> None:
    """Two reads of 1 + 8 and two copies of 4: but for the last, a copy is over before the next read is."""
    stalls = by_hand(chunks=2, steps=[[[2]]])
    assert (stalls[DISK], stalls[COPY]) == (9 + (9 - 4), 4 + 4)


def test_what_the_gpu_gives_up_goes_back_to_an_exclusive_host() -> None:
    """2 is read; 0 takes its slot, after it was written back; then the same the other way, and nothing is read."""
    stalls = by_hand(exclusive=True)
    assert (stalls[DISK], stalls[COPY]) == (17 + 17, 8 + (8 + 8) + (8 + 8))


def test_hits_are_computed_while_others_are_read() -> None:
    """0 is copied and computed while 2 is read: 17 ns, of which the GPU computes 3 and 8 are its own copy."""
    costs = replace(FREE_COMPUTE, per_copy=0, per_token=3)
    setup = make_setup([8], 3, 16, costs=costs)
    disk = FlatDisk(per_read=1, per_byte=2)
    accounts, _ = simulate(LRU(setup), setup, decode([[[0, 2]]], 3), tier=HostTier(16), disk=disk)
    stalls = accounts.stall_row()
    assert (stalls[COPY], stalls[DISK]) == (8 + 8, 17 - 8 - 3)


def test_more_host_memory_never_reads_more_under_lru() -> None:
    """One chunk, one lane, nothing on the GPU between events: loads come in one order, and LRU is a stack."""
    setup = make_setup([8, 8], 6, 24, costs=FlatCosts())
    read = []
    for places in range(2, 13, 2):
        accounts, _ = simulate(Bypass(setup), setup, some_passes(2, 6, 15), tier=HostTier(8 * places), disk=FlatDisk())
        assert accounts.tier is not None
        read.append(accounts.tier.read_bytes)
    assert read == sorted(read, reverse=True)
    assert read[0] > read[-1] == 0


def test_a_policy_whose_experts_the_host_computes_wants_all_there() -> None:
    setup = make_setup([8], 3, 16)
    with pytest.raises(CoreError, match="which needs all experts there"):
        simulate(Placing(setup), setup, [], tier=HostTier(16), disk=FlatDisk())
