"""What next_use learns while it serves, and what it names of layers to come."""

from typing import Any

import numpy as np
import pytest

from policies.next_use.ahead import Ahead, Gain, Named, Odds
from policies.next_use.fit import Discount, Estimate, learn
from policies.next_use.learner import BLOCK, MOST_OF_A_PASS, SOLVE_EVERY, Learner
from policies.next_use.recent import Context, by_choice, choices, contexts
from sim.check.synthetic import draw, setup_of
from tests.policies.next_use.test_next_use import E, L, Past, rows

DISCOUNT = Discount(0.5, 0.25)


def follows(n: int, seed: int, lag: int = 1) -> Any:
    """Choices in which layer 2 follows what layer 0 chose ``lag`` tokens before, and nothing else repeats."""
    rng, ids = np.random.default_rng(seed), rows(n, seed=seed)
    word = rng.integers(0, 2, n)
    ids[:, 0] = np.array([[0, 1], [2, 3]])[word]
    ids[lag:, 2] = np.array([[4, 5], [6, 7]])[word[: n - lag]]
    return ids


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    found = learn(Past(follows(200, 0)), L, E, discount=DISCOUNT, scores=False, components=6)
    assert found.sums is not None
    return found


def served(estimate: Estimate, ids: Any, cuts: Any) -> tuple[Learner, list[Estimate]]:
    learner, found = Learner(estimate, DISCOUNT, scores=False), []
    for part in np.split(ids, cuts):
        better = learner.see(part, None)
        found += [] if better is None else [better]
    return learner, found


def test_its_sums_are_those_of_the_tokens_whose_future_is_known(estimate: Estimate) -> None:
    ids = follows(150, 3)
    learner, better = served(estimate, ids, np.arange(1, 150))
    n, chosen, recent = learner.added, choices(ids, E), estimate.recent(scores=False)
    assert BLOCK <= n <= 150 - learner.wait
    assert len(better) == n // SOLVE_EVERY
    own = []
    for row in range(n):
        recent.see(slice(None), ids[row : row + 1])
        own.append(estimate.own(recent))
    labels = np.zeros((n, L, E))
    for row, layer, x in np.ndindex(n, L, E):
        later = np.flatnonzero(chosen[row + 1 : row + 1 + learner.wait, layer, x])
        labels[row, layer, x] = DISCOUNT.of(later[0]) if len(later) else 0
    at = (contexts(by_choice(estimate.basis), ids, None)[:n] - estimate.mean).transpose(1, 0, 2)
    first = estimate.sums
    assert first is not None
    expected = first.squares + at.transpose(0, 2, 1) @ at
    np.testing.assert_allclose(learner.sums.squares, expected, rtol=1e-4, atol=1e-3)
    products = first.products + at.transpose(0, 2, 1) @ (labels - np.array(own)).transpose(1, 0, 2)
    np.testing.assert_allclose(learner.sums.products, products, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(learner.sums.penalty, first.penalty)


def test_a_prompt_teaches_what_its_tokens_would_one_by_one(estimate: Estimate) -> None:
    ids = follows(120, 4)
    apart, at_once = served(estimate, ids, np.arange(1, 120))[0], served(estimate, ids, [50, 51])[0]
    assert apart.added == at_once.added
    np.testing.assert_allclose(at_once.sums.products, apart.sums.products, rtol=1e-4, atol=1e-4)
    long = np.concatenate([rows(40, seed=9), follows(MOST_OF_A_PASS, 4)])
    whole, last = Learner(estimate, DISCOUNT, scores=False), Learner(estimate, DISCOUNT, scores=False)
    whole.see(long, None)
    last.recent.see(slice(None), long[:40])
    last.before = long[39]
    last.see(long[40:], None)
    np.testing.assert_array_equal(whole.sums.products, last.sums.products)


def test_what_it_is_served_makes_it_better() -> None:
    """The train requests are few; nothing but what came since tells what layer 2 will choose."""
    estimate = learn(Past(follows(60, 1)), L, E, discount=DISCOUNT, scores=False, components=6)
    assert estimate.ridge is not None
    ids, new = follows(600, 5), follows(200, 6)
    better = served(estimate, ids, np.arange(1, 600))[1][-1]
    assert error(better, new) < 0.97 * error(estimate, new)


def error(estimate: Estimate, ids: Any) -> float:
    recent, context, found = estimate.recent(scores=False), Context(estimate.basis), []
    for row, chosen in enumerate(choices(ids[:-1], E)):
        recent.see(slice(None), ids[row : row + 1])
        for layer in range(L):
            at = context.see(layer, chosen[layer])
        found.append(estimate.of(recent, 2, at) - choices(ids[row + 1], E)[2])
    return float(np.square(found[20:]).mean())


def test_it_names_what_a_later_layer_of_this_token_follows() -> None:
    def like(n: int, seed: int) -> Any:
        """Layer 1 follows layer 0 in three of four tokens; layer 2 at the next, so that there is a second step."""
        found = follows(n, seed)
        found[:, 1] = np.where(np.arange(n)[:, None] % 4 == 3, 2 * (found[:, 0, :1] < 2), found[:, 0]) + 4
        found[:, 1, 1] = found[:, 1, 0] + 1
        return found

    past = like(600, 0)
    estimate = learn(Past(past), L, E, discount=DISCOUNT, scores=False, components=8, ahead=1)
    ids, named, alone = like(100, 7), [], []
    recent, context = estimate.recent(scores=False), Context(estimate.basis)
    for row in range(100):
        own, chosen = estimate.own(recent, 1), set(ids[row, 1].tolist())
        at = context.see(0, choices(ids[row, 0], E))
        named.append(set(estimate.named(own, 0, 1, at, 2).tolist()) == chosen)
        alone.append(set(np.argsort(-own)[:2].tolist()) == chosen)
        for layer in range(1, L):
            context.see(layer, choices(ids[row, layer], E))
        recent.see(slice(None), ids[row : row + 1])
    assert np.mean(named) > np.mean(alone) + 0.1  # which is right half of the time


def test_odds_come_from_what_was_seen_and_from_no_other_rank() -> None:
    odds = Odds(2, 2)
    assert odds.of(1, 0) == 0.5
    for came in (True,) * 90 + (False,) * 10:
        odds.saw(Named(0, 1, 0, False), came)
    assert 0.8 < odds.of(1, 0) < 0.9
    assert odds.of(1, 1) == odds.of(2, 0) == 0.5
    for _ in range(3000):
        odds.saw(Named(0, 1, 0, True), False)
    assert odds.of(1, 0) < 0.01


def test_what_was_asked_for_in_vain_is_given_up_at_its_gate() -> None:
    ahead = Ahead(3, 2, 2)
    ahead.named[1] = [Named(3, 1, 0, True), Named(4, 1, 1, True), Named(5, 1, 1, False)]
    ahead.named[2] = [Named(8, 2, 0, True)]
    assert ahead.settle(1, [3, 6]) == [4]
    assert (ahead.odds.of(1, 0) > 0.5, ahead.odds.of(1, 1) < 0.5) == (True, True)
    assert ahead.settle(1, [3]) == []
    assert ahead.drop() == [8]
    assert ahead.drop() == []


def test_a_name_is_loaded_where_what_it_gains_outweighs_what_it_costs() -> None:
    setup = setup_of(draw(1, L, E, 2, decode=2), 10**6)
    gain = Gain(setup)
    copy, computed = gain.copy_ns[1], gain.expert_ns[1]
    assert 0 < computed < copy

    def least(distance: int, victim: float = 0.0) -> float:
        """The odds from which on it pays, by bisection."""
        low, high = 0.0, 1.0
        assert gain.pays(1, distance, high, victim)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if gain.pays(1, distance, middle, victim) else (middle, high)
        return high

    gain.saw(missing=True)
    assert least(1) == pytest.approx(1 - computed / copy)  # as busy as can be: what is gained is the last one's compute
    assert least(1, 0.5) > least(1)
    full = least(1)
    gain.saw(missing=False)
    assert least(1) < full  # all of the layer's compute is before it
    busy = least(1)
    for _ in range(500):
        gain.saw(missing=False)
    assert least(1) < busy
    assert least(1) < 1e-3  # nothing is ever missing: it is in nobody's way
    gain.saw(missing=True)
    assert least(2) <= least(1)
