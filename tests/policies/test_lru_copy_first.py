"""An engine that computes nothing of a layer before all of it is there, by hand."""

import pytest

from tests.policies.scripted import go, script

WARM = [[[0, 1]], [[0, 2]]]
"""One layer: expert 0 is there in the second step, and expert 2 is not."""


# Copies of 70 one after the other, experts of 100, a dense part of 10 in each step. First step: both are copied by 150;
# LRU computes the first from 80 on and ends at 280, the other at 350. Second: the hit during the copy, or after it.
@pytest.mark.parametrize(("name", "wall"), [("lru", 280 + 10 + 200), ("lru_copy_first", 350 + 10 + 270)])
def test_hits_wait_for_the_copies(name: str, wall: int) -> None:
    done = go(name, script(WARM), 70, room=4)
    assert done.accounts.end_ns - done.accounts.start_ns == wall


# Where less fits than a layer demands, it streams through, as LRU's does; what is kept is the same in any case.
@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_it_keeps_what_lru_keeps(room: int) -> None:
    routing = script([[[0, 1], [2, 3]], [[0, 4], [2, 5]], [[4, 1], [6, 2]], [[0, 1], [2, 7]]])
    late, soon = (go(name, routing, 70, room=room) for name in ("lru_copy_first", "lru"))
    assert late.accounts.demand_bytes == soon.accounts.demand_bytes
    assert late.accounts.end_ns >= soon.accounts.end_ns
