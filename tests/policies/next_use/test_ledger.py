"""With host compute: which misses are copied, by one ledger of what that takes now and saves later."""

from collections.abc import Sequence
from random import Random

import numpy as np

from policies.next_use.ledger import TRIED, Ledger, victims
from policies.parts.pools import Scores
from policies.parts.sides import Lookup
from tests.policies.parts.test_sides import MOST, machine, routed


def drawn(seed: int, n: int) -> tuple[Ledger, list[Lookup]]:
    rng = Random(seed)
    tokens = [rng.randrange(1, MOST) for _ in range(n)]
    setup = machine(rng, routed(tokens, n), n)
    return Ledger(setup), [Lookup(x, t, rng.random() < 0.3) for x, t in enumerate(tokens)]


def takes(ledger: Ledger, members: Sequence[Lookup], hosted: Sequence[int]) -> int:
    sides = ledger.sides
    gpu = sides.gpu_ns(0, [it for it in members if it.expert not in hosted])
    return max(gpu, sides.host_ns(0, [it for it in members if it.expert in hosted]))


def test_with_nothing_to_save_later_no_other_number_of_copies_ends_sooner() -> None:
    for seed in range(40):
        ledger, members = drawn(seed, 6)
        missing = [it.expert for it in members if not it.complete]
        worth = dict.fromkeys(missing, 0.5)
        found = ledger.hosted(0, members, worth, [0.5] * len(missing))
        fetched = sorted((it for it in members if not it.complete), key=lambda it: it.hotness)
        best = min(
            takes(ledger, members, [it.expert for it in fetched[k:]]) for k in range(len(fetched) + 1)
        )  # the hottest are copied first
        assert takes(ledger, members, found) <= best
        assert set(found) <= set(missing)


def test_what_is_worth_more_than_its_victim_is_copied_and_what_is_worth_less_is_not() -> None:
    numbers = []
    for seed in range(40):
        ledger, members = drawn(seed, 6)
        missing = [it.expert for it in members if not it.complete]
        often = [
            len(ledger.hosted(0, members, dict.fromkeys(missing, own), [gone] * len(missing)))
            for own, gone in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
        ]
        assert often == sorted(often)
        numbers.append(often)
    assert np.ptp(np.sum(numbers, 0)) > 0


def test_of_alike_misses_the_least_worth_is_computed_by_the_host() -> None:
    for seed in range(20):
        ledger, _ = drawn(seed, 4)
        members = [Lookup(x, 3, False) for x in range(4)]
        worth = {0: 0.1, 1: 0.9, 2: 0.2, 3: 0.8}
        hosted = ledger.hosted(0, members, worth, [0.0] * 4)
        assert sorted(hosted, key=lambda x: worth[x]) == sorted(worth, key=lambda x: worth[x])[: len(hosted)]


def test_many_misses_are_shared_as_sides_would() -> None:
    ledger, _ = drawn(1, TRIED + 4)
    members = [Lookup(x, 1 + x % 3, False) for x in range(TRIED + 4)]
    found = ledger.hosted(0, members, dict.fromkeys(range(TRIED + 4), 0.0), [0.0] * (TRIED + 4))
    order = sorted(members, key=lambda it: it.hotness)
    assert len(found) == len(members) - ledger.sides.best_prefix(0, (), order)


def test_victims_are_the_least_worth_that_may_go_after_room_that_is_free() -> None:
    pool = Scores(range(4, 10), lambda _: np.array([0.6, 0.1, 0.3, 0.2, 0.9, 0.4]))
    for expert in (4, 5, 6, 7):
        pool.add(expert)
    assert victims(pool, 2, [5], 0) == [0.2, 0.3]
    assert victims(pool, 3, [], 1) == [0.0, 0.1, 0.2]
    assert victims(pool, 6, [], 0) == [0.1, 0.2, 0.3, 0.6, 1.0, 1.0]
    assert pool.lowest(lambda _: True) == 5
