"""Where fMoE's stores and variants differ: the rewrite (fmoe_2026), the artifact (fmoe_artifact), by hand."""

import numpy as np
import pytest

from policies.api import Schedule, Signal
from policies.fmoe import FMoE
from policies.signals import marks
from sim.check.laws import run
from sim.check.synthetic import draw, setup_of
from tests.policies.fmoe.desk import EAST, NORTH, A, B, OnDesk, Past
from tests.policies.scripted import as_shipped


def iteration(desk: OnDesk, embedding: list[float], probs: list[list[float]]) -> None:
    desk.begin(embedding)
    for layer, row in enumerate(probs):
        desk.shows(layer, row)


def test_an_online_store_starts_empty_and_grows() -> None:
    desk = OnDesk(store="online", capacity=2)
    assert not desk.policy.wants_history()
    iteration(desk, NORTH, B)
    assert desk.said("expect", "predict") == []
    assert desk.policy.store.size == 0  # the iteration has not ended
    desk.begin(NORTH)
    assert desk.policy.store.size == 1
    assert desk.said("expect") == [("expect", 3)]
    np.testing.assert_array_equal(desk.policy.store.maps[:, 0], B)
    assert desk.shows(0, B[0]).said("expect") == [("expect", 4)]
    for layer in (1, 2):
        desk.shows(layer, B[layer])
    iteration(desk, EAST, A)  # two of B are stored
    desk.begin(EAST)
    # RDY of A with both: 1/3 x 0 + 2/3 x cos(A, B): a tie, so the first place.
    np.testing.assert_array_equal(desk.policy.store.maps[:, 0], A)
    np.testing.assert_array_equal(desk.policy.store.maps[:, 1], B)
    assert desk.policy.store.size == 2


@pytest.mark.parametrize(("store", "changes"), [("offline", False), ("updated", True)])
def test_an_offline_store_is_kept_or_updated(store: str, changes: bool) -> None:
    desk = OnDesk(store=store, capacity=2)
    before = desk.policy.store.maps.copy()
    np.testing.assert_array_equal(before[:, 0], A)
    iteration(desk, NORTH, [B[0], B[1], A[2]])
    desk.begin(EAST)
    after = desk.policy.store.maps
    np.testing.assert_array_equal(after[:, 0], A)
    np.testing.assert_array_equal(after[:, 1], [B[0], B[1], A[2]] if changes else B)  # B was the more redundant


def test_the_update_of_a_full_store_takes_a_search() -> None:
    for capacity, searches in ((2, 1 + 2), (4, 2)):  # for two requests
        desk = OnDesk(store="updated", capacity=capacity, search_us=7.0)
        iteration(desk, EAST, A)
        for _ in range(3):
            desk.answer()
        desk.said()
        assert desk.begin(EAST, NORTH).said("predict") == [("predict", 0, searches * 7000, False)]


def test_a_batch_is_stored_request_by_request() -> None:
    desk = OnDesk(store="online").begin(EAST, NORTH)
    for layer in range(3):
        desk.shows(layer, A[layer], B[layer])
    desk.begin(EAST)
    np.testing.assert_array_equal(desk.policy.store.maps[:, :2].swapaxes(0, 1), [A, B])


def test_maps_of_choices() -> None:
    """Where no scores were recorded: an equal share for each of the K = 2 chosen."""
    desk = OnDesk(maps="choices", search="trajectory", k=2)
    assert desk.policy.needs() == frozenset()
    assert desk.policy.store.maps[:, 0].tolist() == [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0]]
    desk.begin(EAST)
    assert desk.shows(0, A[0]).said("expect") == [("expect", 5, 6)]
    assert OnDesk(maps="choices").policy.needs() == {Signal.EMBEDDING}


def test_choices_that_are_absent() -> None:
    ids = np.array([[1, 255], [255, 255]], np.uint8)
    assert marks(ids, 4).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


def test_2026_predicts_nothing_in_a_prefill() -> None:
    desk = OnDesk(prefill="unpredicted", store="updated").begin(EAST)
    desk.shows(0, A[0]).said()
    desk.begin(NORTH, EAST, prefill=True, counts=[2])
    assert desk.policy.store.size == 3  # the decode step that has ended
    assert desk.policy.worth.p.tolist() == [[0.25] * 4] * 3  # eviction by frequency alone
    assert desk.shows(0, B[0], A[0]).said("expect", "prefetch") == []
    desk.begin(EAST)
    assert desk.policy.store.size == 3  # the prefill is not stored
    assert desk.said("expect") == [("expect", 0)]


def test_2026_stores_prompt_tokens_one_by_one_when_it_collects() -> None:
    desk = OnDesk(Past([[(A, EAST), (B, NORTH)], [(B, EAST)]]), prefill="unpredicted")
    assert desk.policy.store.size == 3
    np.testing.assert_array_equal(desk.policy.store.maps[:, :3].swapaxes(0, 1), [A, B, B])
    assert desk.policy.store.embeddings[:3].tolist() == [EAST, NORTH, EAST]


@pytest.mark.parametrize("search_us", [0.0, 7.0])
def test_2026_uses_the_embedding_from_the_first_gate_on(search_us: float) -> None:
    """d = 2: layers 1 to d - 1 at gate 0, with layer d by trajectory; layer 0 is never predicted."""
    desk = OnDesk(distance=2, semantic_at="gate", search_us=search_us).begin(NORTH)
    if search_us:
        desk.answer()
    assert desk.said("expect", "prefetch") == []
    desk.shows(0, A[0])
    if search_us:
        desk.answer()
    assert desk.said("expect") == [("expect", 4 + 0), ("expect", 8 + 2)]
    desk.begin(NORTH)
    late = OnDesk(distance=2, semantic_at="gate", search_us=7.0).begin(NORTH)
    assert late.shows(0, A[0]).said("expect") == []
    assert late.answer().said("expect") == [("expect", 4)]


def test_2026_computes_by_index_one_copy_ahead() -> None:
    for double_buffer, expected in ((False, None), (True, Schedule([0, 2, 3], ahead=1))):
        desk = OnDesk(double_buffer=double_buffer).begin(EAST)
        desk.shows(0, A[0], demand=[3, 0, 2])
        assert desk.policy.schedule(desk.shown) == expected


def test_the_artifact_plans_all_later_layers_anew() -> None:
    """Gate l plans layers l + 1 + d and up, so layer d is never predicted; 5 layers, d = 1."""
    past = Past([[([*A, *A[:2]], EAST)], [([*B, *B[:2]], NORTH)]])
    desk = OnDesk(past, n_layers=5, replan="all_later")
    assert desk.begin(NORTH).said("expect") == [("expect", 3)]
    assert desk.shows(0, A[0]).said("expect") == [("expect", 8 + 2), ("expect", 12 + 0), ("expect", 16 + 1)]
    assert desk.shows(1, A[1]).said("expect") == [("expect", 12 + 0), ("expect", 16 + 1)]
    assert desk.policy.worth.p[1].tolist() == [0.25] * 4
    paper = OnDesk(past, n_layers=5).begin(NORTH)
    paper.said()
    assert paper.shows(0, A[0]).said("expect") == [("expect", 4 + 1)]


def test_the_artifact_prefetches_everything_in_line() -> None:
    """The chosen come first; what is in line stays until a miss in a later layer, whatever gates pass meanwhile."""
    slow = OnDesk(distance=2, queue="fifo_all", protect=False)
    slow.begin(EAST)  # layers 0 and 1: .5 x (1 - 0 / 2) for 0, .5 x (1 - 1 / 2) for 5; then the rest
    assert slow.said() == [("expect", 0), ("expect", 5), ("prefetch", 0, 0.0)]
    order = [0]
    for _ in range(7):
        slow.arrive(order[-1])
        (_, x, priority) = slow.said("prefetch")[0]
        assert priority == 0
        order.append(x)
    assert order == [0, 5, 1, 2, 3, 4, 6, 7]
    slow.arrive(7)
    slow.shows(0, A[0])
    slow.shows(1, A[1])  # hits; layer 2 is in line since gate 0
    assert slow.said("cancel", "prefetch") == [("prefetch", 8 + 2, 0.0)]


def test_the_artifact_drops_earlier_layers_at_a_miss_alone() -> None:
    desk = OnDesk(distance=2, queue="fifo_all", protect=False)
    assert desk.begin(EAST).said("prefetch") == [("prefetch", 0, 0.0)]
    desk.shows(0, A[0], demand=[1])  # a hit: nothing is dropped, though layer 0 is passed
    assert desk.said("cancel", "prefetch") == []
    desk.shows(1, A[1], demand=[3], there=False)  # a miss: what is in line for layer 0 goes, 0 included
    assert desk.said("cancel", "prefetch") == [("cancel", 0)]
    assert desk.arrive(7).said("prefetch") == [("prefetch", 5, 0.0)]
    assert desk.begin(NORTH).said("cancel") == []  # a new iteration drops nothing


def test_the_artifact_fetches_all_experts_of_a_layer() -> None:
    routing_of = draw(3, n_layers=8)
    done = run(FMoE(setup_of(routing_of, 64 * 12), **as_shipped("fmoe_artifact")), routing_of)
    assert done.core.demanded_bytes == 12 * 8 * 8 * len(routing_of.steps)  # every expert every time
    assert done.lookups == sum(len(d) for p in routing_of.passes() for d in p.demand)


@pytest.mark.parametrize(("key", "hook"), [("fetch_all", "route"), ("double_buffer", "schedule")])
def test_a_hook_is_asked_where_a_parameter_wants_it(key: str, hook: str) -> None:
    """It costs time at every gate: none where it would change nothing."""
    assert [OnDesk(**{key: wanted}).policy.uses(hook) for wanted in (True, False)] == [True, False]
