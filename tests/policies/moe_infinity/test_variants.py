"""MoE-Infinity as the fMoE paper compares with it, worked by hand."""

import pytest

from tests.policies.moe_infinity.desk import MIXED, Past, at_gate_0, on_a_desk, queued
from tests.policies.scripted import as_shipped

AS_IN_FINEMOE = as_shipped("moe_infinity_as_in_finemoe")
NEAR = pytest.approx


def test_as_in_finemoe_the_top_quarter_of_six_layers() -> None:
    """9 layers of 8 experts; each later layer has been seen with three experts, 3 : 2 : 1 tokens. A quarter is two."""
    past = Past([(False, [[[x]] * 9]) for x in (0, 0, 0, 1, 1, 2)])
    fine = on_a_desk(past, 9, 8, **{**AS_IN_FINEMOE, "latency_us": 0.0})
    paper = on_a_desk(past, 9, 8)
    for desk in (fine, paper):
        desk.step(0)
        desk.gate(0, [0])
        queued(desk)
    assert sorted(fine.prefetched) == [8 * layer + x for layer in range(1, 7) for x in (0, 1)]
    assert sorted(paper.prefetched) == [8 * layer + x for layer in range(1, 9) for x in (0, 1, 2)]
    assert fine.priorities[8] == paper.priorities[8] == NEAR(3 / 6 * 8 / 9)  # linear decay
    assert fine.expected == [[8, 9]]


def test_as_in_finemoe_it_blocks_and_evicts_the_least_frequently_used() -> None:
    desk = on_a_desk(MIXED, **{"latency_us": None, **AS_IN_FINEMOE})
    desk.step(0)
    for layer, expert in ((0, 0), (0, 0), (1, 5)):
        desk.gate(layer, [expert])
        desk.arrive(expert)
    assert desk.asked[0] == (1, 2520, True)
    desk.arrive(10)  # prefetched, never demanded
    order = []
    while (victim := desk.policy.victim(1, False)) is not None:
        order.append(victim)
        desk.gone(victim)
    assert order == [10, 5, 0]  # 0, 1, and 2 demands; the paper would keep the likely 10 and evict by layer


def test_a_band_queues_every_expert_of_the_layers_ahead_after_the_likely() -> None:
    desk = at_gate_0(MIXED, band=1)
    assert queued(desk) == [5, 10, 4, 6, 7]
    assert desk.expected == [[4, 5, 6, 7]]
