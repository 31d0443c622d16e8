"""MoE-Infinity, and as the fMoE paper has it, worked by hand: what is prefetched, in which order; who is evicted."""

import pytest

from policies.moe_infinity import MoEInfinity
from sim.check.laws import run
from sim.check.synthetic import setup_of
from tests.policies.moe_infinity.desk import MIXED, STRAIGHT, Past, at_gate_0, decoded, on_a_desk, queued
from tests.policies.scripted import SIZE, as_shipped, costs, script, sums

NEAR = pytest.approx


def test_all_later_layers_are_prefetched_the_nearer_first() -> None:
    """Gate 0 at 10, demand to 70, then layer 1's expert to 130 and layer 2's to 190; gates at 180 and 290 find them.

    With a horizon of one layer, layer 2's waits for gate 1: 180-240.
    """
    routing = script([[[0], [1], [2]]], n_experts=4)
    for horizon, idle in ((None, 0), (1, 50)):
        policy = MoEInfinity(setup_of(routing, 12 * SIZE, costs=costs(60)), latency_us=0.0, horizon=horizon)
        policy.fit(STRAIGHT)  # type: ignore[arg-type]
        policy.wants_history = lambda: False  # type: ignore[method-assign]
        done = run(policy, routing)
        assert sums(done) == ([2, 0, 0, 0, 0], [60, 0, 0, 0, 0], 3 * 110 + 60)
        assert done.accounts.hit_row()[:4] == [3, 2, 2, 2]
        arrivals = list(done.core.log)
        assert (190 + idle in arrivals, 240 in arrivals) == (True, idle == 50)


def test_the_order_is_that_of_likelihood_times_proximity() -> None:
    """From layer 0 of 3: layer 1 weighs 1 - 1/3, layer 2 weighs 1 - 2/3.

    Layer 1: 2/5 * 2/3 = .27 for expert 0 and 3/5 * 2/3 = .4 for 1; layer 2: 1 * 1/3 = .33 for 2.
    """
    desk = at_gate_0(MIXED)
    assert queued(desk) == [4 + 1, 8 + 2, 4 + 0]
    assert desk.priorities == {5: NEAR(0.4), 10: NEAR(1 / 3), 4: NEAR(4 / 15)}
    assert desk.expected == [[4, 5]]  # the next layer's; layer 2's are declared at gate 1, ranked anew
    desk.gate(1, [5])
    assert desk.expected == [[4, 5], [10]]


def test_what_has_not_begun_is_ranked_anew_at_every_gate() -> None:
    """Layer 0 matches the first request; layer 1's expert is the second's: cosines 2/4 and 1/2 are equal.

    Then both are summed: layer 2 has 2 tokens in expert 2 and 1 in 3, with weight 2/3 now.
    """
    past = Past(decoded([0, 1, 2], [0, 1, 2]), decoded([3, 2, 3]))
    desk = at_gate_0(past)
    assert desk.prefetched == [5]
    desk.gate(1, [6])
    assert desk.cancelled == [5]  # its layer has been passed
    assert desk.prefetched == [5, 10]
    assert desk.priorities[10] == NEAR(2 / 3 * 2 / 3)
    desk.arrive(10)
    assert desk.prefetched == [5, 10, 11]
    assert desk.priorities[11] == NEAR(1 / 3 * 2 / 3)
    desk.step(0)
    assert desk.cancelled == [5, 11]


def test_what_has_begun_is_not_withdrawn_what_has_not_is() -> None:
    """4 layers. Gate 0 wants 5 first; gate 1 finds another request: 10 gives way to 11 unless it has begun."""
    past = Past(decoded([0, 1, 2, 2]), decoded([3, 2, 3, 3], [3, 2, 3, 3]))
    for begun in (False, True):
        desk = at_gate_0(past, n_layers=4)
        desk.arrive(5)
        assert desk.prefetched == [5, 10]
        if begun:
            desk.slot(10)
        desk.gate(1, [6], tokens=[9])  # 9 tokens to one: the second request is nearer now
        assert (desk.cancelled, desk.prefetched) == (([], [5, 10]) if begun else ([10], [5, 10, 11]))


def test_what_has_begun_is_dropped_when_its_layer_has_been_passed() -> None:
    desk = at_gate_0()
    desk.slot(5)
    desk.gate(1, [6])
    assert (desk.cancelled, desk.prefetched) == ([5], [5, 10])


def test_what_is_there_is_predicted_and_not_prefetched() -> None:
    desk = on_a_desk(MIXED)
    desk.arrive(5)
    desk.step(0)
    desk.gate(0, [0])
    assert (desk.expected, desk.prefetched) == ([[4, 5]], [10])


def test_several_may_be_outstanding() -> None:
    desk = at_gate_0(MIXED, outstanding=2)
    assert desk.prefetched == [5, 10]
    desk.arrive(10)
    assert desk.prefetched == [5, 10, 4]


@pytest.mark.parametrize("there_before", [True, False])
def test_the_victim_is_the_least_likely_and_early_layers_stay(there_before: bool) -> None:
    """The paper's figure 6: 3 layers of 2 experts, tokens [[1, 2], [0, 3], [0, 3]]; weights 1, 2/3 and 1/3.

    Layer 0: 1/3 and 2/3; layer 1: 0 and 1 * 2/3; layer 2: 0 and 1 * 1/3; and epsilon times the weight, which puts the
    unused of layer 2 before that of layer 1, and of equals the one of the later layer first.
    """
    past = Past(decoded([0, 1, 1], [1, 1, 1], [1, 1, 1]))
    desk = on_a_desk(past, n_experts=2)
    desk.step(0)
    for now in (there_before, not there_before):
        if now:
            desk.arrive(*range(6))
        else:
            desk.gate(0, [1])
    order = []
    while (victim := desk.policy.victim(0, False)) is not None:
        order.append(victim)
        desk.gone(victim)
    assert order == [4, 2, 5, 0, 3, 1]


def test_without_a_match_the_last_layers_go_first() -> None:
    desk = on_a_desk(filled=False)
    desk.step(0)
    desk.gate(0, [1])
    assert (desk.prefetched, desk.expected) == ([], [[]])
    desk.arrive(9, 1, 6, 8)
    desk.pinned.add(8)
    assert desk.policy.victim(0, True) == desk.policy.victim(0, False) == 9


AS_IN_FINEMOE = as_shipped("moe_infinity_as_in_finemoe")


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
