"""The fewest bytes read from a disk, against exhaustive search on a few experts, whole and of one size."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds.future import Future
from sim.core.host_memory import filled
from sim.experiment.disk_bound import disk_floor
from tests.sim.machine.cases import FlatDisk, make_setup

N = 4
Held = frozenset[int]


def subsets(of: Held, at_most: int) -> Iterable[Held]:
    return (frozenset(c) for n in range(min(at_most, len(of)) + 1) for c in combinations(sorted(of), n))


def fewest_reads(events: Sequence[Sequence[int]], gpu: int, host: int, start: Held) -> int:
    """Of all schedules of a GPU and a host with so many places: who is demanded must be on the GPU, what is there came
    from the host, and the host's come from the disk, or back from the GPU."""

    @cache
    def least(at: int, on_gpu: Held, in_host: Held) -> int:
        if at == len(events):
            return 0
        best = 1 << 30
        todo = [(0, on_gpu, in_host, frozenset[int](events[at]))]
        seen = {}
        while todo:  # demanded ones one after the other, in any order, whatever is kept
            reads, there, below, missing = todo.pop()
            if seen.get((there, below, missing), 1 << 30) <= reads or reads >= best:
                continue
            seen[there, below, missing] = reads
            missing -= there
            if not missing:
                best = min(best, reads + least(at + 1, there, below))
                for x in there:  # one gives its place to the host
                    back = ((reads, there - {x}, kept | {x}, missing) for kept in subsets(below, host - 1))
                    todo.extend(back)
                continue
            for x in missing:
                for kept in subsets(below | there, host):
                    for stays in subsets(there, gpu - 1):
                        more = 0 if x in below else 1
                        if more and len(kept) == host:
                            continue  # it passes through the host
                        todo.append((reads + more, stays | {x}, kept if not more else kept | {x}, missing - {x}))
        return best

    return least(0, frozenset(), start)


@settings(max_examples=12)
@given(
    st.lists(st.sets(st.integers(0, N - 1), min_size=1, max_size=2).map(sorted), min_size=1, max_size=5),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_no_schedule_at_all_reads_less(events: list[list[int]], gpu: int, host: int) -> None:
    setup = make_setup([10], N, 10 * gpu)
    floor = floor_of(events, gpu, host)
    assert floor <= 10 * fewest_reads(events, gpu, host, frozenset(filled(setup, 10 * host)))


@pytest.mark.parametrize(("gpu", "host", "reads"), [(1, 1, 3), (1, 2, 2), (2, 2, 2)])
def test_it_is_what_must_be_read(gpu: int, host: int, reads: int) -> None:
    """0 to 3 in turn: the host is filled with the first, and the others are read once."""
    events = [[0], [1], [2], [3]]
    setup = make_setup([10], N, 10 * gpu)
    assert floor_of(events, gpu, host) == 10 * reads
    assert fewest_reads(events, gpu, host, frozenset(filled(setup, 10 * host))) == reads


def floor_of(events: Sequence[Sequence[int]], gpu: int, host: int) -> int:
    setup, disk = make_setup([10], N, 10 * gpu), FlatDisk(per_read=3, per_byte=2, lanes=2)
    floor = disk_floor(Future.of(events, N), setup, 10 * host, disk.reads(setup), warm=False)
    assert floor.ns == floor.nbytes * 23 // 10 // 2
    return floor.nbytes
