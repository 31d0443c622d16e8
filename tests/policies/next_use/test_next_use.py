"""next_use: what it sees, what it learns, and whom it evicts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import PastRequest, PastStep
from policies.next_use.fit import Discount, Estimate, learn, regress
from policies.next_use.past import BEYOND, distances, replayed, tokens_of
from policies.next_use.policy import NextUse
from policies.next_use.recent import Context, Recent, by_choice, choices, contexts
from sim.check.synthetic import draw, setup_of
from sim.experiment.run import run
from tests.policies.desk import past_request
from traces.kit.errors import UserError

L, E, K = 3, 8, 2


class Past:
    """Train requests of these choices, int [n, L, K], a token per pass."""

    def __init__(self, ids: Any) -> None:
        self.ids = ids

    def popularity(self) -> Any:
        raise AssertionError("not asked for")

    def steps(self) -> Iterator[PastStep]:
        raise AssertionError("not asked for")

    def requests(self) -> Iterator[PastRequest]:
        for part in np.array_split(self.ids, 3):
            yield past_request(0, 0, np.arange(len(part)), expert_ids=part)


def rows(n: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return np.stack([[rng.permutation(E)[:K] for _ in range(L)] for _ in range(n)]).astype(np.uint8)


def test_rows_at_once_are_rows_one_by_one() -> None:
    ids, rng = rows(40), np.random.default_rng(1)
    probs = rng.random((40, L, E))
    apart, at_once = Recent(L, E, scores=True), Recent(L, E, scores=True)
    for i in range(40):
        apart.see(slice(None), ids[i : i + 1], probs[i : i + 1])
    at_once.see(slice(None), ids[:7], probs[:7])
    for layer in range(L):
        at_once.see(slice(layer, layer + 1), ids[7:, layer : layer + 1], probs[7:, layer : layer + 1])
    np.testing.assert_allclose(at_once.table, apart.table, rtol=1e-12)


def test_an_average_by_hand() -> None:
    recent = Recent(1, 4, scores=False, decays=(0.5,))
    recent.see(slice(None), np.array([[[0, 1]], [[1, 2]]]))
    np.testing.assert_allclose(recent.chosen[0, 0], [0.25, 0.75, 0.5, 0])
    np.testing.assert_array_equal(recent.age[0, :3], [1, 0, 0])


def test_the_shares_of_a_sequence_start_anew_with_it_from_what_is_popular() -> None:
    popular = np.full((1, 4), 0.25)
    recent = Recent(1, 4, scores=False, popular=popular, decays=())
    shares = recent.table[0, 2:4]
    np.testing.assert_allclose(np.exp(shares), 0.25)
    recent.see(slice(None), np.array([[[0, 1]], [[0, 2]]]))
    np.testing.assert_allclose(np.exp(shares[0]), [4 / 10, 3 / 10, 3 / 10, 2 / 10])
    np.testing.assert_allclose(np.exp(shares[1]), [10 / 34, 9 / 34, 9 / 34, 8 / 34])
    recent.begin()
    np.testing.assert_allclose(np.exp(shares), 0.25)
    assert recent.table[0, 0].tolist() == np.log1p([0, 1, 0, 200 + 2]).tolist()  # ages go on
    recent.see(slice(None), np.array([[[1, 2]]]))
    np.testing.assert_allclose(np.exp(shares[0]), [2 / 9, 3 / 9, 3 / 9, 2 / 9])
    past = tokens_of(Past(rows(30)).requests(), False, 25)
    assert past.begins == {0, 10, 20}
    found = [np.exp(it.table[:, -2]).sum(1) for it in replayed(past, np.full((L, E), 1 / E))]
    expected = [(K * n + 8) / (n + 8) for n in (*range(1, 11), *range(1, 11), *range(1, 6))]
    np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], L, 1))


def test_distances_are_those_of_a_search() -> None:
    chosen = choices(rows(30), E)
    found = distances(chosen)
    for row in range(30):
        for layer in range(L):
            for x in range(E):
                later = np.flatnonzero(chosen[row + 1 :, layer, x])
                assert found[row, layer, x] == (later[0] if len(later) else min(BEYOND, BEYOND + 29 - row))


def test_a_regression_finds_the_law_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)) * (1, 5, 0.1) + (0, 2, 0)
    y = 1 / (1 + np.exp(-(x @ [1.5, -0.2, 4.0] - 0.5)))
    weights, intercept, _ = regress(x, y)
    np.testing.assert_allclose([*weights, intercept], [1.5, -0.2, 4.0, -0.5], atol=0.02)


def test_what_hardly_moves_has_no_weight_and_cannot_run_away() -> None:
    """Scores that a router gives to all alike: their averages are constant but for rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    still = np.full((2000, 3), -2.079) + rng.normal(size=(2000, 3)) * (0, 1e-15, 1e-5)
    weights, intercept, _ = regress(np.concatenate([x, still, np.zeros((2000, 1))], 1), 1 / (1 + np.exp(-x[:, 0])))
    np.testing.assert_allclose(weights, [1, 0, 0, 0, 0], atol=0.02)
    assert abs(intercept) < 0.02


def test_the_context_is_that_of_the_marks_whatever_came_before() -> None:
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(5, L, E))
    context, marks = Context(basis), choices(rows(4), E)
    for before, row in zip([np.zeros((L, E)), *marks], marks, strict=False):
        for layer in range(L):
            at, so_far = context.see(layer, row[layer]), np.arange(L)[:, None] <= layer
            np.testing.assert_allclose(at[:5], np.einsum("rle,le->r", basis, row * so_far), atol=1e-12)
            np.testing.assert_allclose(at[5:], np.einsum("rle,le->r", basis, before * ~so_far), atol=1e-12)


def test_contexts_of_tokens_at_once_are_those_one_by_one() -> None:
    basis, ids = np.random.default_rng(0).normal(size=(5, L, E)), rows(6)
    ids[2, 1, 1] = E  # absent
    context = Context(basis)
    expected = [
        [context.see(layer, choices(row[layer], E)).copy() for layer in range(L)]  # as the gates run
        for row in ids
    ]
    np.testing.assert_allclose(contexts(by_choice(basis), ids, None), expected, atol=1e-5)
    np.testing.assert_allclose(contexts(by_choice(basis), ids[4:], ids[3]), expected[4:], atol=1e-5)


def test_what_other_layers_say_is_found_where_it_is_so_and_left_where_it_is_not() -> None:
    """Layer 0 draws one of two words; the next token's layer 2 follows it, and nothing else repeats."""
    rng, ids = np.random.default_rng(0), rows(600, seed=1)
    word = rng.integers(0, 2, 600)
    ids[:, 0] = np.array([[0, 1], [2, 3]])[word]
    ids[1:, 2] = np.array([[4, 5], [6, 7]])[word[:-1]]
    told = learn(Past(ids), L, E, discount=Discount(0.5, 0), scores=False, components=8)
    assert told.ridge is not None
    context, recent = Context(told.basis), Recent(L, E, scores=False)
    for chosen, (first, other) in (((0, 1), ((4, 5), (6, 7))), ((2, 3), ((6, 7), (4, 5)))):
        now = ids[500].copy()
        now[0] = chosen
        recent.see(slice(None), now[None])
        for layer in range(L):
            at = context.see(layer, choices(now[layer], E))
        worth = told.of(recent, 2, at)
        assert min(worth[list(first)]) > max(worth[list(other)]) + 0.1
    for extreme in (0.0, 1.0):
        assert np.isfinite(
            learn(Past(rows(60)), L, E, discount=Discount(extreme, 0.5), scores=False, components=4).offsets
        ).all()
    assert learn(Past(rows(600, seed=2)), L, E, discount=Discount(0.5, 0), scores=False, components=8).ridge is None


@pytest.mark.parametrize("n_experts", [1, K, E])
@pytest.mark.filterwarnings("error")
def test_where_all_tokens_choose_the_same_there_are_no_components(n_experts: int) -> None:
    ids = np.broadcast_to(np.arange(min(K, n_experts), dtype=np.uint8), (60, L, min(K, n_experts)))
    found = learn(Past(ids), L, n_experts, discount=Discount(0.5, 0), scores=False, components=8, ahead=1)
    assert found.ridge is None
    assert Estimate.recalled(found.kept()).offsets.shape == (L, n_experts)


def test_it_evicts_what_has_the_least_worth_and_spares_what_a_prompt_has_still_to_do() -> None:
    trace = draw(2, L, E, K, decode=3)
    policy = registry.build("next_use", setup_of(trace, 10**6), {"scores": False})
    assert isinstance(policy, NextUse)
    policy.worth[:] = np.linspace(0.1, 0.4, L * E).reshape(L, E)
    for x in (0, 1, E, 2 * E):
        policy.on_slot(x)
    policy.attach(_everything(), None)  # type: ignore[arg-type]
    policy.layer, policy.rows, policy.pools[0].stale = 0, 1, True
    assert policy.victim(5, False) == 0
    policy.worth[1] = 0.05
    policy.pools[0].stale = True
    assert policy.victim(5, False) == E
    policy.rows, policy.pools[0].stale = 100, True  # 1 - .95 ^ 100
    assert policy.victim(5, False) == 0


def test_the_more_the_budget_holds_the_farther_it_looks() -> None:
    trace = draw(2, L, E, K, decode=3)
    all_bytes = sum(setup_of(trace, 10**6).expert_bytes) * E
    found = [registry.build("next_use", setup_of(trace, int(share * all_bytes)), {}) for share in (0.25, 0.5, 0.75)]
    near = [(policy.discount, policy.far) for policy in found if isinstance(policy, NextUse)]
    assert near == [(0.5, 0.0), (0.7, 0.3), (0.85, 0.3)]
    given = registry.build("next_use", setup_of(trace, 10**6), {"discount": 0.6, "far": 0.1})
    assert given.learns_by().items() >= {"near": 0.6, "far": 0.1}.items()


def _everything() -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(evictable=lambda _: True)


@pytest.mark.parametrize(
    "words",
    [{"discount": -0.1}, {"far": 1.1}, {"sure": 2}, {"margin": -1}, {"components": -1}, {"components": 5000}],
)
def test_a_slip_is_one_line(words: dict[str, Any]) -> None:
    trace = draw(2, L, E, K, decode=3)
    (key,) = words
    with pytest.raises(UserError, match=f"policy.{key}=.*allowed"):
        registry.build("next_use", setup_of(trace, 10**6), words)


def test_it_copies_less_than_its_peers_on_requests_that_it_has_not_seen(tmp_path: Any) -> None:
    copied = {}
    for policy in ("lru", "lru_layer", "next_use"):
        found = run(f"policy={policy}", "budget=25%", "limit=2", "bounds=false", out=tmp_path).document
        totals = found["totals"]
        copied[policy] = totals["demand_bytes"] + sum(totals["speculative_bytes"].values())
    assert copied["next_use"] < 0.93 * min(copied["lru"], copied["lru_layer"])
