"""The planner of virtual experts: the profile against a replay set by set, and the search against all plans."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.api import Setup
from policies.swapmoe.planner import (
    Genetic,
    Plan,
    Profile,
    Rehearsal,
    TrainInputs,
    frequencies,
    profile,
    swaps_per_pass,
    uniform,
)
from sim.check.synthetic import FlatCosts, Recorded, Routing, draw, setup_of


def brute_force(routing: Routing, unit: str, frequency: int, n: int, hidden: bool) -> tuple[np.ndarray, np.ndarray]:
    """Kept mass and swaps per update, per layer, of sets of n that are really kept and really changed."""
    ids, weights = routing.ids, routing.signals["expert_weights"].astype(float)
    norms = np.linalg.norm(routing.signals["hidden"].astype(float), axis=-1) if hidden else np.ones(ids.shape[:2])
    inputs: list[list[int]] = []  # rows
    for prefill, first, rows in routing.steps:
        if unit == "pass" or prefill:
            inputs.append([])
        inputs[-1] += range(first, first + rows)
    half, n_experts = (len(inputs) + 1) // 2, routing.n_experts
    kept, swaps, updates = np.zeros(ids.shape[1]), np.zeros(ids.shape[1]), 0
    for mine, others in ((inputs[:half], inputs[half:]), (inputs[half:], inputs[:half])):
        for layer in range(ids.shape[1]):

            def weigh(rows: list[int], layer: int = layer) -> list[float]:
                out = [0.0] * n_experts
                for row in rows:
                    for x, w in zip(ids[row, layer].tolist(), weights[row, layer].tolist(), strict=True):
                        out[x] += w * norms[row, layer]
                return out

            past = weigh([row for rows in others for row in rows])
            order = sorted(range(n_experts), key=lambda x: -past[x])
            for i, rows in enumerate(mine):
                if i and i % frequency == 0:
                    window = weigh([row for rows in mine[i - frequency : i] for row in rows])
                    new = sorted(order, key=lambda x: -window[x])
                    swaps[layer] += len(set(new[:n]) - set(order[:n]))
                    updates += layer == 0
                    order = new
                for row in rows:
                    for x, w in zip(ids[row, layer].tolist(), weights[row, layer].tolist(), strict=True):
                        kept[layer] += w * (x in order[:n])
    return kept / weights.sum(), swaps / max(1, updates)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("unit", ["pass", "request"])
def test_the_profile_is_what_the_sets_would_have_kept(unit: Any, hidden: bool) -> None:
    routing = draw(3, n_layers=3, n_experts=6, decode=5, prompts=5)
    setup = setup_of(routing, 1000)
    train = TrainInputs(Recorded(routing), setup, unit, hidden=hidden)
    chosen = (1, 2, 3)
    known = profile(Rehearsal.of(train, chosen, train.firsts()), setup)
    for f, n in itertools.product(range(3), range(7)):
        kept, swaps = brute_force(routing, unit, chosen[f], n, hidden)
        assert known.kept[f, :, n] == pytest.approx(kept)
        assert known.swap_ns[f, :, n] == pytest.approx(100 * swaps)
    assert known.kept[:, :, -1].sum(1) == pytest.approx([1, 1, 1])
    computed = [n * 40 + 5 for p in routing.passes() for tokens in p.tokens for n in tokens]
    assert known.input_ns * train.count == pytest.approx(sum(computed))


def drawn(seed: int, n_layers: int = 3, n_experts: int = 4, sizes: tuple[int, ...] | None = None) -> tuple[Any, Setup]:
    """A profile of random figures, which need not be of any trace."""
    rng = np.random.default_rng(seed)
    kept = rng.random((2, n_layers, n_experts + 1)).cumsum(2)
    kept = (kept - kept[:, :, :1]) / (kept[:, :, -1:] - kept[:, :, :1]).sum(1, keepdims=True)
    known = Profile((1, 4), kept, rng.random((2, n_layers, n_experts + 1)) * 60, 50.0)
    setup = setup_of(draw(0, n_layers=n_layers, n_experts=n_experts), 12 * 7)
    return known, replace(setup, expert_bytes=sizes or setup.expert_bytes, seed=seed)


def plans(setup: Setup, room: int, least: int, chosen: tuple[int, ...]) -> Iterator[Plan]:
    for experts in itertools.product(range(least, setup.n_experts + 1), repeat=setup.n_layers):
        if np.dot(experts, setup.expert_bytes) <= room:
            yield from (Plan(f, experts) for f in chosen)


def score(genetic: Genetic, plan: Plan) -> float:
    return float(genetic.scores(np.array([[*plan.experts, genetic.profile.frequencies.index(plan.frequency)]]))[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(12, 12, 12), (12, 5, 30)])
def test_the_search_finds_the_best_of_all_plans_of_a_small_model(seed: int, sizes: tuple[int, ...]) -> None:
    known, setup = drawn(seed, sizes=sizes)
    genetic = Genetic(setup, known, 90, 1, 1.0)
    found = genetic.search(32, 64)
    # It fills the room, so it is the best of those that do (more experts may mean more swaps).
    full = [
        p
        for p in plans(setup, 90, 1, known.frequencies)
        if all(n == 4 or np.dot(p.experts, sizes) + size > 90 for n, size in zip(p.experts, sizes, strict=True))
    ]
    assert found in full
    assert score(genetic, found) == max(score(genetic, plan) for plan in full)


@pytest.mark.parametrize("seed", range(8))
def test_no_plan_exceeds_its_room_or_falls_below_the_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(3, 40, 7).tolist())
    known, setup = drawn(seed, 7, 20, sizes)
    for least in (1, 3):
        for room in (least * sum(sizes), least * sum(sizes) + 1, 300 + least * sum(sizes), 10_000):
            genetic = Genetic(setup, known, room, least, 1.0)
            for generations in (1, 9):
                plan = genetic.search(6, generations)
                assert np.dot(plan.experts, sizes) <= room
                assert min(plan.experts) >= least
                assert max(plan.experts) <= 20
                assert plan.frequency in known.frequencies
            herd = genetic._fit(rng.integers(least, 21, (50, 8)))
            left = room - (herd[:, :-1] * sizes).sum(1)
            assert left.min() >= 0
            assert not ((herd[:, :-1] < 20) & (left[:, None] >= sizes)).any(), "room for one more"


@pytest.mark.parametrize("seed", range(8))
def test_the_search_is_never_worse_than_uniform_and_the_same_again(seed: int) -> None:
    known, setup = drawn(seed, 7, 20)
    plain = max(score(Genetic(setup, known, 800, 2, 1.0), uniform(setup, 800, f)) for f in known.frequencies)
    scores = []
    for generations in (1, 5, 40):
        genetic = Genetic(setup, known, 800, 2, 1.0)
        found = genetic.search(16, generations)
        assert found == Genetic(setup, known, 800, 2, 1.0).search(16, generations)
        scores.append(score(genetic, found))
    assert plain <= scores[0] <= scores[1] <= scores[2]
    assert plain < scores[2]
    others = {Genetic(replace(setup, seed=s), known, 800, 2, 1.0).search(4, 2) for s in range(5)}
    assert len(others) > 1  # drawn from the seed of the run


def test_the_frequency_rises_until_latency_suffers() -> None:
    """More frequent is more accurate here; an update copies 300 ns, an input computes 100: every 3 inputs, or rarer."""
    chosen = (1, 2, 3, 4, 8)
    kept = np.tile(np.linspace(0, 1 / 3, 5), (5, 3, 1)) * np.array([1.0, 0.99, 0.98, 0.97, 0.96])[:, None, None]
    known = Profile(chosen, kept, np.full((5, 3, 5), 100.0), 100.0)
    setup = drawn(0)[1]
    assert Genetic(setup, known, 72, 1, 1.0).search(8, 8).frequency == 3
    assert Genetic(setup, known, 72, 1, 0.0).search(8, 8).frequency == 1  # who does not mind
    # Twice too long at 1, half too long at 2: 2 and 0.5 of latency for 0.01 of 0.5 (two of four experts each).
    scores = [score(Genetic(setup, known, 72, 1, 0.01), Plan(f, (2, 2, 2))) for f in chosen]
    assert scores == pytest.approx([0.5 - 0.02, 0.495 - 0.005, 0.49, 0.485, 0.48])


def test_the_herd_begins_with_the_uniform_plan_at_every_frequency() -> None:
    """A herd of no more than these: six experts fit, and two in each layer at frequency 4 are the best by far."""
    kept = np.tile(np.linspace(0, 1 / 3, 5), (4, 3, 1)) * np.array([0.1, 0.1, 1.0, 0.1])[:, None, None]
    known = Profile((1, 2, 4, 8), kept, np.zeros((4, 3, 5)), 100.0)
    for seed in range(5):
        found = Genetic(replace(drawn(0)[1], seed=seed), known, 72, 2, 1.0).search(2, 1)
        assert found == Plan(4, (2, 2, 2))


def test_a_child_exchanges_or_averages_or_has_one_gene_redrawn() -> None:
    """Parents (3, 1, 3, 1) at place 10 and (1, 3, 1, 3) at place 90 of 100 frequencies, in room for 8: a third each.

    Gene by gene from either: 4 of 16 patterns are no parent's and fit at once. The mean: 2 everywhere, at 50 or 51, if
    the parents differ. One gene anew, in 1 of 5 the place.
    """
    known = Profile(tuple(range(1, 101)), np.zeros((100, 4, 5)), np.zeros((100, 4, 5)), 1.0)
    setup = setup_of(draw(0, n_layers=4, n_experts=4), 0)
    parents = np.array([[3, 1, 3, 1, 10], [1, 3, 1, 3, 90]])
    born = Genetic(setup, known, 8 * 12, 1, 1.0)._children(parents, 3000).tolist()
    crossed = [x for x in born if x[:4] in ([3, 1, 1, 3], [1, 3, 3, 1], [3, 3, 1, 1], [1, 1, 3, 3])]
    assert len(crossed) > 3000 / 3 / 2 * 4 / 16 * 0.8
    meant = [x for x in born if x in ([2, 2, 2, 2, 50], [2, 2, 2, 2, 51])]
    assert len(meant) > 3000 / 3 / 2 * 0.8
    redrawn = [x for x in born if x[:4] in ([3, 1, 3, 1], [1, 3, 1, 3]) and x[4] not in (10, 50, 51, 90)]
    assert 3000 / 3 / 5 * 0.8 < len(redrawn) < 3000 / 3 / 5 * 1.2


def test_an_expert_is_copied_in_its_chunks() -> None:
    setup = replace(setup_of(draw(0), 1000, chunks=5, costs=FlatCosts(copy=100)), expert_bytes=(12, 12, 7, 12))
    assert setup.chunk_ns(0) == [25, 25, 16, 16, 16]  # 3, 3, 2, 2 and 2 of 12 bytes, at 100 / 12 ns, rounded down
    assert setup.chunk_ns(2) == [16, 16, 8, 8, 8]


def test_what_a_frequency_may_be() -> None:
    assert frequencies(1) == [1]
    assert frequencies(8) == [1, 2, 4, 8]
    assert frequencies(36) == [1, 2, 4, 8, 16, 32, 36]


def test_swaps_per_pass_are_what_the_link_takes_while_one_token_computes() -> None:
    # Three layers, two experts of 40 + 5 each: 270 ns; a copy of 100 fits twice, one of 300 is allowed anyway.
    for copy, swaps in ((100, 2), (90, 3), (91, 2), (300, 1), (0, 24)):
        routing = draw(0, n_layers=3)
        assert swaps_per_pass(setup_of(routing, 1000, costs=FlatCosts(copy=copy))) == swaps
