"""Masked gating, importance and the ranking of virtual experts, worked by hand from SwapMoE's definitions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.api import Routing
from policies.swapmoe.virtual_experts import importance, masked_gate, ranked, token_norms

NONE = 255


def gate(ids: Any, weights: Any, probs: Any, virtual: list[int], first: int = 0) -> Routing:
    mask = np.isin(np.arange(len(probs[0])), virtual)
    return masked_gate(np.array(ids, np.uint8), np.array(weights, np.float16), np.array(probs, np.float16), mask, first)


# Three layers of 4 experts, top-2, two tokens; the same gate in each layer, each with other virtual experts.
IDS = [[0, 1], [2, 0]]
WEIGHTS = [[0.5, 0.25], [0.5, 0.25]]
PROBS = [[0.5, 0.25, 0.0625, 0.1875], [0.25, 0.125, 0.5, 0.125]]


def test_masked_gating_by_hand() -> None:
    # Layer 0, {1, 3}: token 0 keeps 1 and gets 3 for 0; token 1 loses both, and gets 1 and 3, equals by index.
    # In all 1.5 of weight, of which token 0's 0.25 is kept. The last token's last expert is the last in order.
    done = gate(IDS, WEIGHTS, PROBS, [1, 3])
    assert done == Routing([1, 3], [2, 2], 0.25, 1.5, slots=4, substituted=3, skipped=0)
    # Layer 1, {0, 1, 2}: nothing is lost, so all is as the gate chose: 0 twice, and 0 is the last used.
    done = gate(IDS, WEIGHTS, PROBS, [0, 1, 2], first=4)
    assert done == Routing([5, 6, 4], [1, 1, 2], 1.5, 1.5, slots=4)
    # Layer 2, {0, 3}: 0 stays in both tokens (0.5 + 0.25), 3 takes the place of 1 and of 2.
    done = gate(IDS, WEIGHTS, PROBS, [0, 3], first=8)
    assert done == Routing([8, 11], [2, 2], 0.75, 1.5, slots=4, substituted=2)


def test_who_computes_which_token_by_hand() -> None:
    asked: list[Any] = []

    def weigh(experts: Any, allowed: Any) -> Any:
        asked.append((experts.tolist(), allowed.tolist()))
        return np.full(experts.shape, 0.5, np.float32)

    def chosen(virtual: list[int]) -> Any:
        mask = np.isin(np.arange(4), virtual)
        given = (np.array(IDS, np.uint8), np.array(WEIGHTS, np.float16), np.array(PROBS, np.float16))
        done = masked_gate(*given, mask, 0, weigh)
        assert masked_gate(*given, mask, 0) == replace(done, chosen=None)  # it changes nothing else
        return None if done.chosen is None else done.chosen[0].tolist()

    # What stays, then what takes the place of the others; 4 is nobody.
    assert chosen([1, 3]) == [[1, 3], [1, 3]]
    assert chosen([0, 3]) == [[0, 3], [0, 3]]
    assert chosen([2]) == [[2, 4], [2, 4]]
    assert asked[-1] == ([[2, 4], [2, 4]], [False, False, True, False])
    # All that the gate chose is virtual, and yet a softmax over three is not one over four.
    assert chosen([0, 1, 2]) == [[0, 1], [2, 0]]
    before = len(asked)
    assert chosen([0, 1, 2, 3]) is None  # nothing is masked
    assert len(asked) == before


def test_absent_choices_are_no_slots() -> None:
    # Token 0 does not see the layer, token 1 has one choice: what stands in their weights is nobody's.
    done = gate([[NONE, NONE], [2, NONE]], [[9, 9], [0.5, 9]], PROBS, [0, 1])
    assert done == Routing([0], [1], 0.0, 0.5, slots=1, substituted=1)
    assert gate([[0, NONE]], [[0.5, 9]], PROBS[:1], [0, 1]) == Routing([0], [1], 0.5, 0.5, slots=1)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_top_k_of_the_masked_probabilities(seed: int) -> None:
    """What the paper says, token by token: a masked score is -inf, then the gate is as always."""
    rng = np.random.default_rng(seed)
    rows, n_experts, k = int(rng.integers(1, 9)), 12, int(rng.integers(1, 6))
    probs = rng.permuted(np.tile(np.arange(1, n_experts + 1) / 128, (rows, 1)), axis=1)  # no equals, exact in float16
    ids = np.argsort(-probs, axis=1)[:, :k]
    weights = np.take_along_axis(probs, ids, 1)
    virtual = sorted(rng.choice(n_experts, int(rng.integers(1, n_experts + 1)), replace=False).tolist())
    done = gate(ids, weights, probs, virtual)
    order: dict[int, int] = {}
    kept = lost = skipped = 0.0
    for row, chosen in zip(probs.tolist(), ids.tolist(), strict=True):
        used = sorted(virtual, key=lambda x: -row[x])[:k]
        for x in used:
            order[x] = order.pop(x, 0) + 1
        kept += sum(row[x] for x in chosen if x in used)
        lost += sum(x not in used for x in chosen)
        skipped += k - len(used)
    assert (list(done.demand), list(done.tokens)) == (list(order), list(order.values()))
    assert (done.kept_mass, done.gate_mass) == pytest.approx((kept, weights.sum()))
    assert (done.slots, done.substituted, done.skipped) == (rows * k, lost - skipped, skipped)


def test_importance_by_hand() -> None:
    # I(E_i) = sum of ||x|| G(x)_i: token 0 (norm 2) goes to 0 with 0.5 and 1 with 0.25, token 1 (norm 3) to 2 and 0.
    norms = token_norms(np.array([[0.0, 2.0], [1.0, np.sqrt(8)]], np.float32))
    assert norms == pytest.approx([2, 3])
    ids, weights = np.array(IDS, np.uint8), np.array(WEIGHTS, np.float16)
    assert importance(ids, weights, np.array([2.0, 3.0]), 4).tolist() == [2 * 0.5 + 3 * 0.25, 2 * 0.25, 3 * 0.5, 0]
    assert importance(ids, weights, None, 4).tolist() == [0.75, 0.25, 0.5, 0]  # the fallback: all norms 1
    assert importance(np.array([[NONE, 1]], np.uint8), weights[:1], None, 4).tolist() == [0, 0.25, 0, 0]


def test_importance_of_many_layers_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((7, 3, 4)), axis=-1)[..., :2].astype(np.uint8)
    weights, norms = rng.random((7, 3, 2)).astype(np.float16), rng.random((7, 3))
    whole = importance(ids, weights, norms, 4)
    assert whole.shape == (3, 4)
    for layer in range(3):
        assert whole[layer] == pytest.approx(importance(ids[:, layer], weights[:, layer], norms[:, layer], 4))


def test_equals_keep_their_places_in_the_ranking() -> None:
    before = np.array([[2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]])
    weight = np.array([[0, 0.5, 0, 0], [0.1, 0.4, 0.2, 0.3], [0, 0, 0, 0]])
    assert ranked(before, weight).tolist() == [[1, 2, 0, 3], [1, 3, 2, 0], [3, 2, 1, 0]]
