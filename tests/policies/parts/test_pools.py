"""Every order gives up first whom a scan of all members would: the least, the lower expert among equals."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies.lru import LRU
from policies.parts.pools import Arrivals, Queue, Ranking, Scores
from sim.check.synthetic import draw, setup_of

MEMBERS = range(100, 150)


@pytest.mark.parametrize("kind", ["queue", "ranking", "scores"])
def test_an_order_is_that_of_a_scan(kind: str) -> None:
    rng, key = np.random.default_rng(0), np.zeros(200)
    order: Any = {
        "queue": lambda: Queue(MEMBERS),
        "ranking": lambda: Ranking(lambda x: (int(key[x]), 0)),
        "scores": lambda: Scores(MEMBERS, lambda experts: key[experts]),
    }[kind]()
    inside: dict[int, None] = {}
    for _ in range(3000):
        x = int(rng.choice(MEMBERS))
        if x in inside:
            order.discard(x)
            del inside[x]
            key[x] *= kind != "ranking"  # where it is not yet asked for, it may
        else:
            order.add(x)
            inside[x] = None
        if rng.random() < 0.3:
            key[rng.choice(MEMBERS)] += 1  # the rank of a member may grow, never fall
            order.stale = True
        able = set(rng.choice(MEMBERS, 20).tolist())
        first = [y for y in (inside if kind == "queue" else sorted(inside, key=lambda y: (key[y], y))) if y in able]
        assert order.lowest(able.__contains__) == (first[0] if first else None)
    assert kind != "ranking" or len(order.heap) <= 2 * len(MEMBERS) + 65


@pytest.mark.parametrize("hook", ["on_slot", "on_evict", "victim"])
def test_a_hook_that_a_class_or_an_object_has_for_itself_is_asked(hook: str) -> None:
    """The pool's own stands for the hook of Pooled alone, in one call less."""
    asked: list[int] = []

    def bound(policy: Any) -> Any:
        policy.attach(SimpleNamespace(evictable=lambda _: True), None)
        return getattr(policy.hooks(), hook)

    def own(*given: Any) -> None:
        asked.append(given[-2] if hook == "victim" else given[-1])

    setup = setup_of(draw(0), 1000)
    plain, watched = LRU(setup), LRU(setup)
    assert bound(plain) != getattr(plain, hook)
    setattr(watched, hook, own)
    of_class = type("Watched", (LRU,), {hook: own})(setup)
    for policy in (watched, of_class):
        bound(policy)(*((3, False) if hook == "victim" else (3,)))
    assert asked == [3, 3]


@pytest.mark.parametrize("kind", ["arrivals", "ranking", "scores"])
@pytest.mark.parametrize("slots", [1, 2, 12])
def test_an_exchange_is_one_victim_after_the_other(kind: str, slots: int) -> None:
    rng, key = np.random.default_rng(slots), np.zeros(200)
    make: Any = {
        "arrivals": lambda: Arrivals(MEMBERS),
        "ranking": lambda: Ranking(lambda x: int(key[x])),
        "scores": lambda: Scores(MEMBERS, lambda experts: key[experts].copy()),
    }[kind]
    at_once, single = make(), make()
    inside = set(MEMBERS[:slots])
    for order in (at_once, single):
        for x in inside:
            order.add(x)
    refused = 0
    for _ in range(150):
        incoming = rng.permutation([x for x in MEMBERS if x not in inside])[: rng.integers(1, 9)].tolist()
        key[incoming] += rng.integers(0, 5, len(incoming))
        key[rng.choice(MEMBERS, 5)] += 1
        at_once.stale = single.stale = True
        able = {x for x in inside if rng.random() < 0.7}
        left = list[int]()
        for before, x in zip([None, *incoming], incoming, strict=False):
            gone = single.lowest((inside - {before}).__contains__ if left else able.__contains__)
            if gone is None and not left:
                break
            left.append(before if gone is None else gone)
            single.discard(left[-1])
            single.add(x)
            inside = inside - {left[-1]} | {x}
        assert at_once.exchange(incoming, able.__contains__) == left
        refused += not left
    assert refused or slots > 2


def test_scores_stand_until_they_are_stale() -> None:
    key = np.array([2.0, 1.0, 0.0])
    order = Scores(range(3), lambda experts: key.copy()[experts])
    order.add(0)
    order.add(1)
    assert order.lowest(lambda _: True) == 1
    key[:] = 0, 1, 2
    order.add(2)
    assert order.lowest(lambda _: True) == 2  # who enters has the score of then
    order.stale = True
    assert order.lowest(lambda x: x != 0) == 1
    assert order.lowest(lambda _: True) == 0  # who was refused is still a member
