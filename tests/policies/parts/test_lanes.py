"""Copies on the lanes of a link, and who weighs one against the host."""

from dataclasses import replace

import pytest

from policies import registry
from policies.parts.lanes import alone_ns, copied
from sim.check.laws import run
from sim.check.synthetic import FlatHost, setup_of
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, costs, script


def test_each_chunk_takes_the_lane_that_is_free_first() -> None:
    lanes = [0, 0]
    assert copied(lanes, [10, 6, 6]) == 12  # 10 on one, twice 6 on the other
    assert sorted(lanes) == [10, 12]
    assert copied(lanes, [5]) == 15
    assert copied(lanes, [5], after=20) == 25  # both are free before
    assert sorted(lanes) == [15, 25]
    assert copied(lanes, []) == 15


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
def test_a_copy_alone_is_the_machines(lanes: int, chunks: int) -> None:
    """One miss of LRU: it waits for its copy, and for nothing else."""
    one = script([[[0]]])
    setup = replace(setup_of(one, SIZE, chunks=chunks, costs=costs(60)), lanes=lanes)
    accounts = run(registry.build("lru", setup, {}), one).accounts
    assert accounts.end_ns == 10 + alone_ns(setup, 0) + 100


# By hand: a copy of two chunks takes 60 ns on one lane and 30 on two, the GPU 100, the host 140.
@pytest.mark.parametrize(("lanes", "hosted"), [(1, [0]), (2, [])])
def test_who_weighs_a_copy_against_the_host_knows_of_all_lanes(lanes: int, hosted: list[int]) -> None:
    one = script([[[0]]])
    setup = replace(
        setup_of(one, 4 * SIZE, chunks=2, costs=costs(60)), lanes=lanes, host=FlatHost(140, None, workers=1)
    )
    for rule in ("paper", "code", "max"):
        fiddler = registry.build("fiddler", setup, {"rule": rule})
        assert list(fiddler.place(Desk(fiddler).event(0, [0]))) == hosted, rule
    hybrimoe = registry.build("hybrimoe", replace(setup, budget=100 * SIZE), {})
    assert list(hybrimoe.place(Desk(hybrimoe).event(0, [0]))) == hosted
    daop = registry.build("daop", replace(setup, budget=SIZE), {"start": "index", "swaps": 0})
    desk = Desk(daop)
    desk.step(prefill=True)
    assert list(daop.place(desk.event(0, [0], prefill=True))) == hosted
