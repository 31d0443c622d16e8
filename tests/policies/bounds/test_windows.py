"""The bound over windows of passes: against exhaustive search, of the bytes and of the shortest run."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds import windows as module
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from policies.bounds.windows import window_bytes
from sim.experiment.bounds import windows_floor_ns
from tests.policies.bounds.test_belady_bypass import N, fewest_copies
from tests.policies.bounds.toy import POLICIES, Lab, one_by_one, random_lab

LABS = st.integers(0, 2**32).map(lambda seed: random_lab(random.Random(seed)))
EVENT = st.lists(st.integers(0, N - 1), unique=True, min_size=1, max_size=4)
EVENTS = st.lists(EVENT, min_size=1, max_size=9)


@settings(max_examples=60)
@given(EVENTS, st.integers(0, N), st.booleans())
def test_each_window_needs_what_exhaustive_search_finds(events: list[list[int]], slots: int, warm: bool) -> None:
    """Whole experts of one byte, an event a pass."""
    ends, said = range(1, len(events) + 1), dict[tuple[int, int], int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STRIDE", 1)
        for end, ending in zip(ends, window_bytes(Future.of(events, N), [1], N, slots, ends, warm=warm), strict=True):
            for first, nbytes in ending:
                said[first, end] = max(nbytes, said.get((first, end), 0))
    assert len(said) == len(events) * (len(events) + 1) // 2
    for (first, end), nbytes in said.items():
        assert nbytes == fewest_copies(events[first:end], slots, warm or first > 0)


@settings(max_examples=50)
@given(LABS)
def test_a_pass_alone_needs_what_does_not_fit(lab: Lab) -> None:
    """The closed form is what the scan says."""
    setup = lab.setup
    sizes = (setup.expert_bytes, setup.n_experts, setup.budget)
    ends = list(accumulate(sum(map(bool, step.demand)) for step in lab.passes))
    for number, ending in enumerate(window_bytes(lab.future(), *sizes, ends, warm=True)):
        own = Future.of(lab.passes[number].demand, setup.n_layers * setup.n_experts)
        said = max([nbytes for first, nbytes in ending if first == number], default=0)
        assert said == belady_bypass_bytes(own, *sizes, warm=True)


@settings(max_examples=50)
@given(LABS, st.integers(1, 9), st.integers(1, 30), st.floats(0, 0.9))
def test_fewer_windows_say_less_and_none_says_more_than_all(lab: Lab, stride: int, reach: int, share: float) -> None:
    warmup = int(share * len(lab.passes))
    every, some = lab.floor(warmup, 1, 99), lab.floor(warmup, stride, reach)
    assert some.compute_ns <= some.windows_ns <= every.windows_ns
    assert every.windows_ns >= max(every.compute_ns, every.link_ns)  # the run is a window
    assert replace(every, windows_ns=0) == replace(some, windows_ns=0)


def shortest(sequence: list[int], slots: int, copy: int) -> int:
    """Every schedule of a link that takes ``copy`` ns, nanosecond by nanosecond.

    A pass computes 1 ns before its gate, 1 ns for its expert, 1 ns after it. A slot is taken when its copy begins.
    """
    # Passes that have ended, ns until what is computed ends, of 3 parts the one that is; who has a slot; the copy.
    State = tuple[int, int, frozenset[int], tuple[int, int] | None]
    states: set[State] = {(0, 0, frozenset(), None)}
    for time in range(1000):
        if any(number == len(sequence) for number, *_ in states):
            return time
        following = set[State]()
        chosen = {choice for state in states for choice in choices(state, sequence, slots, copy)}
        for number, part, slot, link in chosen:
            waits = part == 1 and (sequence[number] not in slot or (link and link[0] == sequence[number]))
            after = link and (link[0], link[1] - 1)
            at = (number, part) if waits else divmod(3 * number + part + 1, 3)
            following.add((*at, slot, after if after and after[1] else None))
        states = following
    raise AssertionError("no end")


def choices(state, sequence: list[int], slots: int, copy: int) -> Iterator[tuple]:  # type: ignore[no-untyped-def, type-arg]
    """What the link may begin now."""
    yield state
    number, part, slot, link = state
    if link:
        return
    pinned = {sequence[number]} if part == 1 else set()
    for x in set(sequence) - slot:
        for victim in [None] if len(slot) < slots else slot - pinned:
            yield number, part, slot - {victim} | {x}, (x, copy)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 2), st.integers(1, 4))
def test_no_schedule_at_all_is_shorter(sequence: list[int], slots: int, copy: int) -> None:
    lab = one_by_one(sequence, 3, slots, expert=1, dense=1, launch=0, ns=copy)
    least = shortest(sequence, slots, copy)
    assert lab.floor(0, 1, 99).ns <= least
    for name, policy in POLICIES.items():
        assert lab.run(policy(lab.setup)).end_ns >= least, name


def test_prompts_wait_for_the_link_and_tokens_do_not() -> None:
    """Two rounds of 1 2 3 4 and then twenty of 0, with room for two; a copy takes 10 ns, a pass 4.

    As a whole: 5 compulsory copies and 3 again are 80 ns on the link, which 48 passes hide in 192. By windows: a round
    and the 0 after it want 5 copies the first time, and the second time the 3 that cannot be there; 38 passes compute.
    """
    sequence = [1, 2, 3, 4] + [0] * 20 + [1, 2, 3, 4] + [0] * 20
    lab = one_by_one(sequence, 5, 2, expert=1, dense=1, launch=1, ns=10)
    floor = lab.floor(0, 1, 99)
    assert (floor.compute_ns, floor.link_ns) == (192, 80)
    assert floor.windows_ns == 5 * 10 + 19 * 4 + 3 * 10 + 19 * 4
    assert floor.ns <= lab.run(POLICIES["oracle_ahead"](lab.setup)).end_ns


def test_a_partition_adds_up_by_hand() -> None:
    """Of passes that compute 5, 1, 1, 5 ns: apart 5 + (link 7) + 5, where one window of all would say 12."""
    ending = [[(0, 2)], [(0, 3)], [(1, 7), (0, 8)], [(0, 11)]]
    assert windows_floor_ns(ending, [5, 1, 1, 5], lambda nbytes: nbytes) == 17
    assert windows_floor_ns(ending, [5, 1, 1, 5], lambda nbytes: 2 * nbytes) == 24
    assert windows_floor_ns([], [], lambda nbytes: nbytes) == 0
