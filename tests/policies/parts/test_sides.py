"""Both sides of a layer: their times against closed forms and the machine, the splits against every other split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from random import Random

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent, Setup
from policies.fiddler import Fiddler
from policies.parts.sides import ASSIGNMENTS, Lookup, Sides
from sim.check.laws import run
from sim.check.synthetic import FlatCosts, FlatHost, Routing, setup_of
from tests.policies.scripted import SIZE

MOST = 40  # tokens of an expert


@dataclass
class Priced(FlatCosts):
    """An expert's price on the GPU by its tokens."""

    table: list[int] = field(default_factory=list)

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.table[tokens]


@dataclass
class PricedHost(FlatHost):
    """An expert's price on the host by its tokens."""

    table: list[int] = field(default_factory=list)

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.table[tokens]


def routed(tokens: Sequence[int], n_experts: int) -> Routing:
    """One prompt in one layer; expert i is chosen by so many of its tokens."""
    ids = np.array([[[x]] for x, n in enumerate(tokens) for _ in range(n)], np.uint8)
    return Routing(ids, [(True, 0, len(ids))], n_experts)


def machine(rng: Random, routing: Routing, room: int, *, workers: int = 1, chunks: int = 1) -> Setup:
    """Prices that grow with the tokens, now flat and now steep, and nobody in another's way."""
    gpu, host = ([0, *sorted(rng.randrange(1, top) for _ in range(MOST))] for top in (60, 400))
    prices = Priced(rng.randrange(0, 12) * 12, 0, rng.randrange(4), 10, 0, 0, gpu)
    setup = setup_of(routing, room * SIZE, costs=prices, chunks=chunks)
    return replace(setup, host=PricedHost(0, None, workers, table=host))


def closed_form(setup: Setup, there: Iterable[int], fetched: Iterable[int], hosted: Iterable[int], one: bool) -> int:
    """The later side's end, of tokens: one worker, and one place or as many as are wanted."""
    assert setup.host is not None
    copy = sum(setup.chunk_ns(0))
    first, falling = (
        [setup.costs.expert_ns(0, n) + setup.costs.launch_ns for n in sorted(side, reverse=True)]
        for side in (there, fetched)
    )
    if one and falling:
        gpu = max(sum(first), copy) + sum(falling) + (len(falling) - 1) * copy
    else:  # whoever is the last for which the GPU waits: what comes after it is computed without a pause
        waits = [(i + 1) * copy + sum(falling[i:]) for i in range(len(falling))]
        gpu = max([sum(first) + sum(falling), *waits])
    return max(gpu, sum(setup.host.expert_ns(0, n) for n in hosted))


def members(rng: Random, n: int, most: int) -> list[Lookup]:
    return [Lookup(x, rng.randrange(1, most + 1), rng.random() < 0.3) for x in range(n)]


def tokens(found: Iterable[Lookup]) -> list[int]:
    return [it.tokens for it in found]


# By hand: two complete, two to fetch at 20 each; the second copy waits for the first one's compute, or does not.
@pytest.mark.parametrize(("places", "ends"), [(1, 20 + 7 + 20 + 5), (None, 20 + 20 + 5)])
def test_copies_follow_one_another_and_wait_for_a_place(places: int | None, ends: int) -> None:
    setup = setup_of(routed([1], 8), SIZE, costs=Priced(20, launch_ns=1, table=[0, 2, 4, 6]))
    four = [Lookup(0, 1, True), Lookup(1, 3, True), Lookup(2, 2, False), Lookup(3, 3, False)]
    assert Sides(setup, places).gpu_ns(0, four) == ends


def test_the_worker_that_is_free_first_takes_the_next() -> None:
    setup = replace(setup_of(routed([1], 8), SIZE), host=FlatHost(10, None, workers=2))
    three = [Lookup(0, 2, False), Lookup(1, 5, False), Lookup(2, 4, False)]
    assert Sides(setup, 1).host_ns(0, three) == 60  # 50, and 40 with 20 behind it
    assert Sides(setup, 1).host_ns(0, []) == 0


@pytest.mark.parametrize("one", [True, False])
def test_the_later_side_is_the_closed_forms(one: bool) -> None:
    for seed in range(40):
        rng = Random(seed)
        setup = machine(rng, routed([1], 8), 1)
        sides, found = Sides(setup, 1 if one else None), members(rng, rng.randrange(9), 9)
        cut = rng.randrange(len(found) + 1)
        gpu, hosted = found[:cut], found[cut:]
        there, fetched = (tokens(it for it in gpu if it.complete is is_there) for is_there in (True, False))
        longer = max(sides.gpu_ns(0, gpu), sides.host_ns(0, hosted))
        assert longer == closed_form(setup, there, fetched, tokens(hosted), one), seed


class Fixed(Fiddler):
    """Places what it is told."""

    def place(self, event: LayerEvent) -> Sequence[int]:
        return self.hosted


# The oracle is the machine: no other split of the layer ends earlier on it, and this one when it was foreseen to.
@pytest.mark.parametrize(
    ("staging", "workers", "chunks", "lanes"),
    [(1, 1, 1, 1), (2, 1, 3, 1), (3, 2, 1, 1), (1, 2, 2, 1), (1, 1, 3, 2), (2, 1, 1, 2), (3, 2, 3, 2)],
)
def test_no_split_is_sooner_on_the_machine(staging: int, workers: int, chunks: int, lanes: int) -> None:
    for seed in range(4):
        rng = Random(seed)
        routing = routed([rng.randrange(1, 9) for _ in range(5)], 8)
        setup = replace(machine(rng, routing, staging, workers=workers, chunks=chunks), lanes=lanes)
        params = {"rule": "max", "staging": staging}
        done = run(registry.build("fiddler", setup, params), routing)
        assert isinstance(done.policy, Fiddler)
        chosen, ends = done.policy.hosted, done.accounts.end_ns
        event = zip(done.core.event.demand, done.core.event.tokens, strict=True)
        every = [Lookup(x, n, False) for x, n in event]
        gpu, host = ([it for it in every if (it.expert in chosen) is placed] for placed in (False, True))
        assert ends == 10 + max(done.policy.sides.gpu_ns(0, gpu), done.policy.sides.host_ns(0, host))
        for n in range(6):
            for hosted in combinations(range(5), n):
                other = Fixed(setup, rule="max", staging=staging)
                other.hosted = sorted(hosted, key=lambda x: next(it for it in every if it.expert == x).hotness)
                assert run(other, routing).accounts.end_ns >= ends, (seed, hosted)


@pytest.mark.parametrize("one", [True, False])
def test_up_to_eight_experts_the_split_is_the_best_of_all(one: bool) -> None:
    for seed in range(12):
        rng = Random(seed)
        setup, found = machine(rng, routed([1], 8), 1), members(rng, 8, 30)
        hosted = Sides(setup, 1 if one else None).best_split(0, found)
        there = tokens(it for it in found if it.complete)
        missing = [it for it in found if not it.complete]

        def key(split: Sequence[int]) -> tuple[int, int, list[int]]:
            """Of a split: when it ends, its copies, and the fetched from the hottest on."""
            fetched = sorted((it for it in missing if it.expert not in split), key=lambda it: it.hotness)  # noqa: B023
            away = tokens(it for it in missing if it.expert in split)  # noqa: B023
            ends = closed_form(setup, there, tokens(fetched), away, one)  # noqa: B023
            return ends, len(fetched), [-n for n in tokens(fetched)] + [it.expert for it in fetched]

        numbers = [it.expert for it in missing]
        splits = [split for n in range(len(numbers) + 1) for split in combinations(numbers, n)]
        assert key(hosted) == min(map(key, splits)), seed
        assert set(hosted) <= set(numbers)


def test_many_alike_are_split_exactly_and_others_within_one_experts_time() -> None:
    greedy = 0
    for seed in range(40):
        rng = Random(seed)
        setup = machine(rng, routed([1], 16), 1)
        assert setup.host is not None
        spread = rng.sample(range(1, MOST + 1), 10) if seed % 4 else [1] * 7 + [2] * 3
        found = [Lookup(x, n, False) for x, n in enumerate(spread)] + [Lookup(10, 9, True)]
        hosted = Sides(setup, 1).best_split(0, found)
        ends = closed_form(
            setup, [9], (n for x, n in enumerate(spread) if x not in hosted), tokens_of(hosted, spread), True
        )
        best = min(
            closed_form(setup, [9], (n for x, n in enumerate(spread) if x not in split), tokens_of(split, spread), True)
            for n in range(11)
            for split in combinations(range(10), n)
        )
        if seed % 4:
            assert 2 ** len(spread) > ASSIGNMENTS
            greedy += ends > best
            copy = sum(setup.chunk_ns(0)) + setup.costs.launch_ns
            one = max(min(copy + setup.costs.expert_ns(0, n), setup.host.expert_ns(0, n)) for n in spread)
            assert best <= ends <= best + one, seed
        else:
            assert ends == best, seed
    assert greedy, "the limit is of no use if none is ever above the least"


def tokens_of(experts: Iterable[int], spread: Sequence[int]) -> list[int]:
    return [spread[x] for x in experts]


def test_the_best_prefix_is_the_best_of_all_and_the_shortest_of_these() -> None:
    for seed in range(60):
        rng = Random(seed)
        setup = machine(rng, routed([1], 8), 1, workers=1 + seed % 2)
        sides, order, first = Sides(setup, None), members(rng, rng.randrange(20), 9), members(rng, seed % 3, 4)
        ends = [max(sides.gpu_ns(0, [*first, *order[:n]]), sides.host_ns(0, order[n:])) for n in range(len(order) + 1)]
        assert sides.best_prefix(0, first, order) == ends.index(min(ends)), seed
