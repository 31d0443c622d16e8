"""A page cache above a disk: whom it serves, by an oracle of its own, and the laws of a machine that has one."""

from dataclasses import asdict, replace
from random import Random
from types import SimpleNamespace

import pytest

from policies.bounds.future import Future
from policies.lru import LRU
from sim.core.accounts import STALLS, Accounts, PageCacheAccounts
from sim.core.core import Core
from sim.core.host_memory import HostTier
from sim.core.loads import NONE
from sim.experiment.disk_bound import disk_floor
from sim.machine.disk import Stage
from sim.machine.page_cache import PageCache
from sim.workload.passes import Pass
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FREE_COMPUTE, FlatDisk, decode, make_setup, simulate, some_passes
from tests.sim.machine.restless import Case, Restless
from tests.sim.machine.textbook_disk import TextbookDisk

DISK = FlatDisk(per_read=5, per_byte=2, lanes=2)
SETUP = make_setup([8, 8], 8, 32, chunks=2)
TIER = HostTier(24)
TOTAL = 2 * 8 * 8


@pytest.fixture(scope="module")
def passes() -> list[Pass]:
    return some_passes(2, 8, 40, seed=3)


def run(passes: list[Pass], disk: FlatDisk, *, exclusive: bool = False) -> tuple[Accounts, Core, PageCacheAccounts]:
    tier = replace(TIER, exclusive=exclusive)
    accounts, core = simulate(LRU(SETUP), SETUP, passes[8:], warmup=passes[:8], tier=tier, disk=disk)
    accounts.check()
    assert accounts.tier is not None
    pages = accounts.tier.page_cache or PageCacheAccounts()
    return accounts, core, pages


@pytest.mark.parametrize("experts", [0, 1, 2, 5])
def test_who_was_read_lately_is_served(experts: int) -> None:
    """Of experts of one size: a chunk is cached that was read since its expert came in, which it did at a read with as
    many others as the cache holds since its last one."""
    random, reads = Random(experts), list[tuple[int, int]]()
    cache = PageCache([3, 4] * 7, 2, 7 * experts)
    since: dict[int, set[int]] = {}
    for _ in range(400):
        expert, part = random.randrange(7), random.randrange(2)
        before = [x for x, _ in reads]
        last = max((i for i, x in enumerate(before) if x == expert), default=None)
        if last is None or len(set(before[last:])) > experts:
            since[expert] = set()
        assert cache.read(2 * expert + part) == (part in since[expert])
        since[expert] |= {part} if experts else set()
        reads.append((expert, part))
        assert cache.used <= cache.capacity
    counts = cache.counts
    assert counts.reads + counts.disk_reads == 400
    assert counts.nbytes + counts.disk_bytes == sum(3 + part for _, part in reads)


def test_a_larger_expert_passes_it_by() -> None:
    cache = PageCache([4, 9, 4], 1, 8)
    assert [cache.read(chunk) for chunk in (0, 1, 0, 1, 2, 0)] == [False, False, True, False, False, True]


def by_hand(page_cache: int, *, chunks: int = 1) -> list[int]:
    """The stalls of 2, 0, 2, 1 and 2, of three experts of 8 bytes; the host holds one, 0 at first, and so does the GPU.

    A copy takes 8 ns, a read 1 + 16, one out of the page cache 4: that is 0.5 ns per byte, in whole ones of a chunk.
    """
    costs = replace(FREE_COMPUTE, per_copy=0)
    setup = make_setup([8], 3, 8, chunks=chunks, costs=costs)
    disk = FlatDisk(per_read=1, per_byte=2, page_cache=page_cache, per_cached_byte=1)
    steps = decode([[[x]] for x in (2, 0, 2, 1, 2)], 3)
    accounts, _ = simulate(LRU(setup), setup, steps, tier=HostTier(8), disk=disk)
    return accounts.stall_row()


@pytest.mark.parametrize(("page_cache", "served"), [(0, 0), (8, 0), (16, 2), (24, 2)])
def test_a_read_that_it_serves_takes_a_copy_in_memory(page_cache: int, served: int) -> None:
    """All five are read, as the host passes each on: in a cache of two, 2 is there both times that it comes back."""
    stalls = by_hand(page_cache)
    assert stalls[STALLS.index("disk_read")] == (5 - served) * 17 + served * 8


def test_as_slow_as_the_drive_it_changes_nothing_but_who_serves(passes: list[Pass]) -> None:
    """To the nanosecond and the last decision."""
    flat = replace(DISK, per_read=0)
    usual, core, _ = run(passes, flat)
    same, again, pages = run(passes, replace(flat, page_cache=TOTAL // 2, per_cached_byte=flat.per_byte))
    assert pages.reads > 0
    assert again.digest() == core.digest()
    assert usual.tier is not None
    assert same.tier is not None
    assert same.tier.busy_ns + pages.nbytes * flat.per_byte == usual.tier.busy_ns
    same.tier.page_cache, same.tier.busy_ns = None, usual.tier.busy_ns
    assert asdict(same) == asdict(usual)


def test_the_drive_is_idle_while_the_cache_serves() -> None:
    """Two lanes, a chunk of 10 ns on either; the second is served."""
    asked = iter([0, 1, NONE])
    stage = Stage(SimpleNamespace(next_chunk=None), lambda: next(asked), lambda: True, lambda chunk: 10, 2, 2)  # type: ignore[arg-type]
    stage.elsewhere = {1}
    stage.hand_over(0)
    assert len(stage.carried(0)) == 2
    assert (stage.busy_ns, stage.busy_after(3)) == (10, 7)


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_is_read_is_read_from_either(passes: list[Pass], exclusive: bool) -> None:
    """A larger cache leaves less to the drive, down to each byte once; and no run beats the bound."""
    future = Future.of((d for step in passes[8:] for d in step.demand), 16)
    of_drive = []
    for page_cache in (8, 24, TOTAL // 2, TOTAL):
        disk = replace(DISK, page_cache=page_cache)
        accounts, _, pages = run(passes, disk, exclusive=exclusive)
        assert accounts.tier is not None
        assert accounts.tier.read_bytes == pages.nbytes + pages.disk_bytes
        floor = disk_floor(future, SETUP, TIER.capacity, disk.reads(SETUP), warm=True)
        assert pages.disk_bytes >= floor.nbytes
        assert accounts.wall_ns >= floor.ns
        of_drive.append(pages.disk_bytes)
    assert of_drive == sorted(of_drive, reverse=True)
    assert of_drive[0] > of_drive[-1]
    cold, _ = simulate(LRU(SETUP), SETUP, passes, tier=TIER, disk=replace(DISK, page_cache=TOTAL))
    assert cold.tier is not None
    assert cold.tier.page_cache is not None
    assert 0 < cold.tier.page_cache.disk_bytes <= TOTAL


def test_the_bound_has_the_cheaper_of_both(passes: list[Pass]) -> None:
    """All that is read twice may come out of the cache; where the drive is the faster, nothing need to."""
    future = Future.of((d for step in passes for d in step.demand), 16)

    def floor_ns(disk: FlatDisk) -> int:
        return disk_floor(future, SETUP, TIER.capacity, disk.reads(SETUP), warm=False).ns

    without = floor_ns(DISK)
    cached = replace(DISK, page_cache=TOTAL)
    assert 0 < floor_ns(replace(cached, per_cached_byte=0)) < floor_ns(cached) < without
    assert floor_ns(replace(cached, per_cached_byte=99)) == without


def test_the_textbook_machine_has_it_alike(passes: list[Pass]) -> None:
    """Where it is full and serves many; of unequal sizes, for a policy that prefetches and cancels."""
    setup = make_setup([8, 11], 8, 40, chunks=2)
    case = Case(setup, passes[:4], passes[4:24], 2, setup.costs, by_layer=False, lanes=2)
    disk = replace(DISK, page_cache=66, lanes=3)
    slow, _ = agree(TextbookDisk, case, Restless, {"tier": HostTier(24), "disk": disk}, by_layer=False, eagerness=2)
    pages = slow.counts.page_cache
    assert min(pages.reads, pages.disk_reads) > 20
