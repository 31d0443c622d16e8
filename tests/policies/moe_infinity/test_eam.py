"""Activation matrices and their collection, worked by hand: 3 layers of 4 experts; and in batches, on the machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.api import LayerEvent
from policies.moe_infinity.eam import Collection, Iteration, Requests, by_request
from sim.check.synthetic import FakeSignals, draw
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import simulate
from tests.policies.moe_infinity.desk import Past
from tests.sim.experiment.serving import serving
from tests.sim.small_trace import SIZE, Plan, config, write

A = [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]
B = [[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]


def matrix(rows: list[list[int]]) -> NDArray[np.float64]:
    return np.array(rows, np.float64).ravel()


def collection(*matrices: list[list[int]], capacity: int = 9) -> Collection:
    found = Collection(capacity, 3, 4)
    for rows in matrices:
        found.add(matrix(rows))
    return found


def seen(found: Collection, *experts: int) -> Iteration:
    """One token per layer, in its expert."""
    iteration = Iteration(found)
    for layer, x in enumerate(experts):
        iteration.see(np.array([4 * layer + x]), np.ones(1))
    return iteration


def test_the_nearest_is_matched_in_the_layers_that_have_run() -> None:
    """Expert 0 in layer 0: cosine with A 2/2 = 1, with B 1/sqrt 2. Expert 1: 0 and 1/sqrt 2.

    Then expert 2 in layer 1: A (2 + 0)/(sqrt 8 sqrt 2) = .5, B (1 + 2)/(sqrt 6 sqrt 2) = .87: the match moves to B.
    """
    found = collection(A, B)
    assert seen(found, 0).nearest(0, 1).tolist() == [0]
    assert seen(found, 1).nearest(0, 1).tolist() == [1]
    assert seen(found, 0, 2).nearest(1, 1).tolist() == [1]
    assert seen(found, 0, 2).nearest(1, 2).tolist() == [0, 1]


def test_tokens_count_by_their_number_and_length_does_not() -> None:
    """3 tokens for expert 0, 1 for 1: with A 3/sqrt 10 = .95, with B (3 + 1)/(sqrt 10 sqrt 2) = .89; 3 and 2: B.

    (2 tokens for 1: 3/sqrt 13 = .83 and 5/(sqrt 13 sqrt 2) = .98.) B ten times as long is as near as B.
    """
    found = collection(A, [[10 * n for n in row] for row in B])
    for ones, nearest in ((1, 0), (2, 1)):
        iteration = Iteration(found)
        iteration.see(np.array([0, 1]), np.array([3.0, ones]))
        assert iteration.nearest(0, 1).tolist() == [nearest]


def test_equals_are_all_matched() -> None:
    found = collection(A, B, A)
    assert seen(found, 0).nearest(0, 1).tolist() == [0, 2]
    assert found.total(np.array([0, 2])).reshape(3, 4).tolist() == [[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]]
    assert seen(found, 3).nearest(0, 1).tolist() == [0, 1, 2]  # nothing in common with any
    assert seen(collection(), 3).nearest(0, 1).tolist() == []


def test_a_newcomer_replaces_what_it_is_most_similar_to() -> None:
    """It shares layers 1 and 2 with A: 8/12 = .67; with ten times B half of layer 0: 20/sqrt(12 * 1000) = .18."""
    newcomer = [[0, 2, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]
    long = [[10 * n for n in row] for row in B]
    found = collection(A, long, newcomer, capacity=2)
    assert (found.size, found.counts[:, 0].tolist()) == (2, matrix(newcomer).tolist())
    assert found.counts[:, 1].tolist() == matrix(long).tolist()
    assert found.squares.T.tolist() == [[4, 8, 12], [200, 600, 1000]]
    assert seen(found, 0).nearest(0, 1).tolist() == [1]
    found.add(np.zeros(12))  # a request without decode steps leaves nothing
    assert found.counts[:, 0].tolist() == matrix(newcomer).tolist()


def test_prefill_and_decode_are_traced_apart_and_requests_add_up() -> None:
    first = [(True, [[[0], [1], [2]], [[3], [1], [2]]]), (False, [[[1], [1], [1]]]), (False, [[[1], [2], [255]]])]
    second = [(True, [[[2], [2], [2]]])]
    requests = Requests(9, 3, 4)
    requests.learn(Past(first, second))  # type: ignore[arg-type]
    decode, prefill = requests.collections
    assert (decode.size, prefill.size, requests.matrices) == (1, 2, [{}, {}])
    assert decode.counts[:, 0].reshape(3, 4).tolist() == [[0, 2, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
    assert prefill.counts[:, 0].reshape(3, 4).tolist() == [[1, 0, 0, 1], [0, 2, 0, 0], [0, 0, 2, 0]]
    assert prefill.counts[:, 1].reshape(3, 4).tolist() == [[0, 0, 1, 0]] * 3


@pytest.mark.parametrize("seed", range(3))
def test_what_each_request_of_a_batch_demands_adds_up_to_the_event(seed: int) -> None:
    ids = draw(seed, n_layers=3, n_experts=8, k=3).ids[:7]
    signals: Any = FakeSignals({"expert_ids": ids})
    signals.enter([(0, 7)])
    for layer in range(3):
        signals.layer = layer
        demand = np.unique(ids[:, layer]).tolist()
        tokens = [int((ids[:, layer] == x).sum()) for x in demand]
        flat = [8 * layer + x for x in demand]
        event = LayerEvent(layer, False, flat, tokens, (4, 5, 6), (2, 1, 4), signals)
        parts = list(by_request(event, 8))
        assert [int(n.sum()) for _, n in parts] == [6, 3, 12]
        total = np.zeros(24)
        for experts, n in parts:
            total[experts] += n
        assert total[flat].tolist() == tokens
        alone = LayerEvent(layer, False, flat, tokens, (4,), (7,), signals)
        (experts, n), *none = by_request(alone, 8)
        assert (experts.tolist(), n.tolist(), none) == (flat, tokens, [])


PLANS = [Plan((2, 1), 3), Plan((1,), 7), Plan((3,), 2), Plan((1,), 0), Plan((2,), 5), Plan((1,), 1), Plan((1,), 4)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_every_request_that_has_ended_left_its_own_matrices(batch: int, tmp_path: Path) -> None:
    rows = sum(plan.rows for plan in PLANS)
    rng = np.random.default_rng(batch)
    ids = np.argsort(rng.random((rows, 2, 4)), axis=-1)[..., :2]
    trace = write(tmp_path / "t", PLANS, ids, n_experts=4)
    given = config(trace, 8 * SIZE, batch=batch)
    cell = make_cell(replace(given, policy={"name": "moe_infinity", "filled": False}))
    policy: Any = simulate(cell, make_policy(cell)).policy
    policy.requests.close(False)  # the last have ended, and nothing came after them
    policy.requests.close(True)
    first, whole = 0, {False: [], True: []}  # type: ignore[var-annotated]
    for plan in PLANS:
        for prefill, n in ((True, sum(plan.prefill)), (False, plan.decode)):
            flat = (ids[first : first + n] + np.array([[0], [4]])).ravel()
            if n:
                whole[prefill].append(np.bincount(flat, minlength=8).tolist())
            first += n
    for prefill, collection in enumerate(policy.requests.collections):
        stored = collection.counts[:, : collection.size].T.tolist()
        assert sorted(stored) == sorted(whole[bool(prefill)])


def test_where_prompts_and_output_share_a_pass_each_request_counts_for_its_own_phase(tmp_path: Path) -> None:
    """Three tokens a pass: while request 0 decodes the prompt of request 1 comes in chunks, and neither is left out."""
    rng = np.random.default_rng(5)
    ids = np.argsort(rng.random((12, 2, 4)), axis=-1)[..., :2]
    trace = write(tmp_path / "t", [Plan((2,), 4), Plan((4,), 2)], ids, n_experts=4)
    workload = {"rate": 10**9, "max_num_seqs": 2, "max_num_batched_tokens": 3}
    given = replace(serving(trace, 8 * SIZE, workload=workload), policy={"name": "moe_infinity", "filled": False})
    cell = make_cell(given)
    policy: Any = make_policy(cell)
    outcome = simulate(cell, policy)
    assert outcome.accounts.pass_ns[2] > 0, "no pass was mixed"
    for prefill, spans in ((True, [(0, 2), (6, 10)]), (False, [(2, 6), (10, 12)])):
        policy.requests.close(prefill)
        found = policy.requests.collections[prefill]
        numbers = ids + np.array([[0], [4]])
        wanted = [np.bincount(numbers[a:b].ravel(), minlength=8).tolist() for a, b in spans]
        assert sorted(found.counts[:, : found.size].T.tolist()) == sorted(wanted)
