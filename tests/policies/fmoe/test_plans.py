"""How many experts, in which order, and which to evict: fMoE's formulas on numbers worked by hand."""

import numpy as np
import pytest

from policies.fmoe.plans import ByUrgency, Eviction, Fifo, Worth, choose

P = [0.5, 0.25, 0.125, 0.125]  # cumulated: .5, .75, .875, 1


@pytest.mark.parametrize(
    ("similarity", "threshold", "one_fewer"),
    [
        (1.0, 1, 1),  # delta 0: #(cumsum < 0) + 1 = 1; #(cumsum <= 0) = 0, at least K
        (1.5, 1, 1),  # clipped to 0
        (0.75, 1, 1),  # .25: the first passes it, none is at most it
        (0.5, 1, 1),  # exactly the first: sum >= delta, and sum <= delta
        (0.4, 2, 1),  # .6: crossed by the second
        (0.2, 3, 2),  # .8: by the third
        (0.125, 3, 3),  # exactly three
        (0.0, 4, 4),  # delta 1: all
        (-1.0, 4, 4),  # clipped to 1
    ],
)
def test_the_threshold(similarity: float, threshold: int, one_fewer: int) -> None:
    """The smallest prefix with a sum of clip(1 - similarity, 0, 1), and at least K; the artifact: one fewer."""
    for rule, expected in (("threshold", threshold), ("one_fewer", one_fewer), ("top_k", 0)):
        for k in (1, 2, 3):
            chosen = choose(np.array([P]), [similarity], k, rule)  # type: ignore[arg-type]
            assert chosen == [[0, 1, 2, 3][: max(k, expected)]]


def test_ties_zeros_and_rounded_sums() -> None:
    probs = np.array([[0.25] * 4, [0.125, 0.375, 0.375, 0.125], [0] * 4, [0.5, 0.25, 0.125, 0.0625]])
    assert choose(probs, [0.5, 0.5, 0.5, 0.0], 1, "threshold") == [
        [0, 1],  # the lower index first among equals
        [1, 2],
        [],  # a layer that was not seen
        [0, 1, 2, 3],  # a sum below delta, from rounding: all, and no more
    ]
    many = np.tile([0.5, 1, 0.5, 0.25], 64)[None] / 256
    assert choose(many, [1.0], 200, "top_k")[0][:130] == [*range(1, 256, 4), *range(0, 256, 2)][:130]
    assert choose(probs, [1.0] * 4, 2, "top_k") == [[0, 1], [1, 2], [], [0, 1]]


def test_urgency_is_p_by_layers_to_go() -> None:
    """PRI = p / (l - l_now): E = 4, layers 1 and 3 planned before any gate (l_now = -1)."""

    def filled() -> ByUrgency:
        queue = ByUrgency(4)
        queue.add(1, np.array([[0.4, 0.1, 0, 0], [0, 0, 0, 0], [0, 0.3, 0.9, 0]]), [[0, 1], [], [2, 1]])
        return queue

    never = [].__contains__
    queue = filled()
    taken = [queue.take(-1, never) for _ in range(5)]
    # 14: .9 / 4 = .225; 4: .4 / 2 = .2; 13: .3 / 4 = .075; 5: .1 / 2 = .05.
    assert taken == [(14, 0.9 / 4), (4, 0.4 / 2), (13, 0.3 / 4), (5, 0.1 / 2), None]
    queue = filled()
    # After gate 0: 4: .4 / 1; 14: .9 / 3 = .3; a tie of 13 and 5 at .3 / 3 = .1 / 1, the earlier layer first.
    assert [queue.take(0, never) for _ in range(4)] == [(4, 0.4), (14, 0.9 / 3), (5, 0.1), (13, 0.3 / 3)]
    queue = filled()
    queue.pass_layer(1, missed=False)
    assert queue.take(1, {14}.__contains__) == (13, 0.3 / 2)
    assert queue.take(1, never) is None  # 14 was needless
    assert [queue.stale(x, 1, missed) for x in (4, 7, 8) for missed in (False, True)] == [True] * 4 + [False] * 2


def test_planning_a_layer_anew_forgets_its_old_plan() -> None:
    queue = ByUrgency(4)
    queue.add(1, np.array([P]), [[0, 1]])
    queue.add(1, np.array([[0, 0, 1, 0]]), [[2]])
    assert [queue.take(0, [].__contains__) for _ in range(2)] == [(6, 1.0), None]


def test_the_line_of_the_artifact() -> None:
    """p x (1 - (l - start) / (end + 1)) for the chosen, + 1e-6 for all; layers 1 and 2 of E = 2: flat 2, 3, 4, 5."""
    queue = Fifo(4, 2)
    queue.add(1, np.array([[0.5, 0.5], [0.4, 0.6]]), [[0], [1]])
    # 2: .5 x (1 - 0 / 3) = .5; 5: .6 x (1 - 1 / 3) = .4; 3 and 4 are not chosen: 1e-6.
    assert queue.waiting.tolist() == [2, 5, 3, 4]
    never = [].__contains__
    assert queue.take(-1, never) == (2, 0.0)  # one class of priority
    queue.add(2, np.array([[0.9, 0.1], [0.3, 0.7]]), [[0], [1]])  # layers 2 and 3: 4 and 5 are in line already
    assert queue.waiting.tolist() == [5, 3, 4, 7, 6]
    queue.add(1, np.array([[0.9, 0.1]]), [[0]])
    assert queue.waiting.tolist() == [5, 3, 4, 7, 6, 2]  # it has left the line, and comes again
    queue.pass_layer(2, missed=False)
    assert queue.take(2, {5}.__contains__) == (3, 0.0)  # no miss: what has been passed stays in line
    queue.pass_layer(3, missed=True)
    assert [queue.take(3, never) for _ in range(3)] == [(7, 0.0), (6, 0.0), None]
    queue.add(0, np.array([[0.5, 0.5]]), [[0]])
    queue.add(2, np.array([[0.5, 0.5]]), [[0]])
    assert [queue.take(-1, never) for _ in range(5)] == [(0, 0.0), (1, 0.0), (4, 0.0), (5, 0.0), None]
    assert [queue.stale(x, 2, missed) for x in (3, 4) for missed in (False, True)] == [False, True, False, False]


@pytest.mark.parametrize(("likelihood", "first"), [(0.42, 2), (0.39, 5)])
def test_the_decay_of_the_artifact(likelihood: float, first: int) -> None:
    """Of layers 1 (the start) and 2 (the end), .6 in the latter counts as .6 x (1 - 1 / 3) = .4."""
    queue = Fifo(4, 2)
    queue.add(1, np.array([[likelihood, 0.1], [0.4, 0.6]]), [[0], [1]])
    assert queue.waiting[0] == first


def worth(rule: Eviction, *, forget: bool = False) -> Worth:
    """One layer of four experts, all resident, demanded 4, 2, 1 and 1 times; p = .1, .3, .4, .2."""
    w = Worth(1, 4, rule, forget=forget)
    for experts in ([3, 0, 1], [1, 0], [0], [0, 2]):
        w.demanded(experts)
    for x in range(4):
        w.enter(x, speculative=False)
    w.found(0, 1, np.array([[0.1, 0.3, 0.4, 0.2]]))
    return w


def order(w: Worth) -> list[int]:
    gone: list[int] = []
    while (x := w.lowest(lambda y: y not in gone)) is not None:
        gone.append(x)
    return gone


@pytest.mark.parametrize(
    ("rule", "p", "expected"),
    [
        ("p_freq", [0.1, 0.3, 0.4, 0.2], [3, 0, 2, 1]),  # argmax 1 / (p x freq): .4, .6, .4, .2
        ("p_freq", [0.1, 0.05, 0.4, 0.2], [1, 3, 0, 2]),  # .4, .1, .4, .2
        ("p_freq_whole", [0.1, 0.3, 0.4, 0.2], [0, 1, 2, 3]),  # all cut to 0: by index
        ("p_freq_whole", [0.5, 0.4, 0.05, 0.05], [1, 2, 3, 0]),  # 2, .8, .05, .05
        ("lfu", [0.1, 0.3, 0.4, 0.2], [2, 3, 1, 0]),  # 4, 2, 1, 1
        ("lru", [0.1, 0.3, 0.4, 0.2], [3, 1, 0, 2]),  # by the last event, in token order within it
    ],
)
def test_who_is_evicted_first(rule: Eviction, p: list[float], expected: list[int]) -> None:
    w = worth(rule)
    order(w)
    w.found(0, 1, np.array([p]))  # a new map counts at once
    assert order(w) == expected


def test_a_demand_counts_at_once() -> None:
    w = worth("p_freq")
    assert order(w)[0] == 3
    w.demanded([3])
    assert order(w) == [0, 2, 3, 1]  # .4, .6, .4, .4


@pytest.mark.parametrize("rule", ["p_freq", "p_freq_whole", "lfu"])
def test_an_eviction_forgets_the_frequency_or_not(rule: Eviction) -> None:
    for forget, freq in ((False, 4), (True, 0)):
        w = worth(rule, forget=forget)
        w.lowest(lambda _: True)
        w.discard(0)
        assert w.freq[0] == freq
        assert 0 not in order(w)
        w.demanded([1])  # all anew: the same
        assert 0 not in order(w)
        w.enter(0, speculative=False)
        assert (order(w)[0] == 0) is (forget or rule == "p_freq_whole")
        w.demanded([1])  # all anew: the same
        assert (order(w)[0] == 0) is (forget or rule == "p_freq_whole")


def test_a_speculative_load_enters_as_the_most_recent() -> None:
    w = Worth(1, 4, "lru", forget=False)
    w.demanded([0, 1])
    for x, speculative in ((0, False), (2, True), (1, False)):
        w.enter(x, speculative=speculative)
    assert order(w) == [0, 1, 2]
    w.lowest(lambda _: True)
    w.enter(3, speculative=True)
    assert order(w) == [0, 1, 2, 3]
