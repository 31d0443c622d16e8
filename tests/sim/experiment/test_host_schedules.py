"""Every schedule of a tiny machine with link, GPU and host: none is shorter than the time bound, by windows or not."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.workload.passes import Pass
from tests.policies.bounds.toy import Lab, one_by_one
from tests.sim.experiment.test_host_bound import Cheaper
from tests.sim.machine.cases import FlatHost

Experts = frozenset[int]
NO = Experts()
BEFORE, EXPERTS, AFTER = range(3)


class State(NamedTuple):
    """At one nanosecond. A pass computes 1 ns before its gate, 1 ns for each expert on the GPU, 1 ns after it."""

    number: int  # passes that have ended
    part: int
    todo: Experts  # demanded, and not yet computed, on the GPU
    host_ns: int  # until the one worker has computed its share
    slots: Experts
    link: tuple[int, int] | None  # who is copied, and for how long still


def shortest(events: list[list[int]], slots: int, copy: int, host: int) -> int:
    """Nanosecond by nanosecond, whatever link, GPU and host may do. A slot is taken when its copy begins."""
    states = {State(0, BEFORE, NO, 0, NO, None)}
    for time in range(1000):
        if any(state.number == len(events) for state in states):
            return time
        begun = {chosen for state in states for chosen in copies(state, events, slots, copy)}
        states = {after for state in begun for after in later(state, events, host)}
    raise AssertionError("no end")


def copies(state: State, events: list[list[int]], slots: int, copy: int) -> Iterator[State]:
    """What the link may begin now: anything, in the place of anyone who is not awaited."""
    yield state
    if state.link is None:
        for x in {x for event in events for x in event} - state.slots:
            for victim in [None] if len(state.slots) < slots else state.slots - state.todo:
                yield state._replace(slots=state.slots - {victim} | {x}, link=(x, copy))


def later(state: State, events: list[list[int]], host: int) -> Iterator[State]:
    """A nanosecond on, whatever the GPU computes in it, and whatever the host is given at a gate."""
    x, left = state.link or (None, 0)
    state = state._replace(link=(x, left - 1) if x is not None and left > 1 else None)
    if state.part == BEFORE:
        event = events[state.number]
        for n in range(len(event) + 1):
            for hosted in combinations(event, n):
                yield ended(state._replace(part=EXPERTS, todo=Experts(event) - Experts(hosted), host_ns=n * host))
    elif state.part == EXPERTS:
        state = state._replace(host_ns=max(0, state.host_ns - 1))
        yield ended(state)
        for done in state.todo & state.slots - {x}:
            yield ended(state._replace(todo=state.todo - {done}))
    else:
        yield state._replace(number=state.number + 1, part=BEFORE)


def ended(state: State) -> State:
    """The layer ends when both sides have."""
    return state if state.todo or state.host_ns else state._replace(part=AFTER)


def lab_of(events: list[list[int]], slots: int, copy: int, host: int) -> Lab:
    lab = one_by_one([0], 3, slots, expert=1, dense=1, launch=0, ns=copy)
    passes = [Pass(False, (0,), [(i, 1)], 1, i + 1, i + 1, [e], [[1] * len(e)]) for i, e in enumerate(events)]
    return replace(lab, passes=passes, setup=replace(lab.setup, top_k=2, host=FlatHost(1, None, host, 0)))


EVENTS = st.lists(st.lists(st.integers(0, 2), unique=True, min_size=1, max_size=2), min_size=1, max_size=5)


@settings(max_examples=36)
@given(EVENTS, st.integers(1, 2), st.integers(1, 4), st.integers(1, 4))
def test_no_schedule_at_all_is_shorter(events: list[list[int]], slots: int, copy: int, host: int) -> None:
    lab, least = lab_of(events, slots, copy, host), shortest(events, slots, copy, host)
    floor = lab.floor(0, 1, 99, with_host=True).with_host
    assert floor is not None
    assert floor.ns <= least
    for at_random in (0.0, 0.5, 1.0):
        assert lab.run(Cheaper(lab.setup, at_random)).end_ns >= least


def test_windows_say_what_the_whole_run_hides() -> None:
    """An event of 0 and 1, then six of 0, with room for one; a copy and an expert on the host take 10 ns each.

    As a whole the host may compute two lookups, wherever they are: 20 ns, to which compute shrinks, too, from 22. But
    the first pass wants one copied and one computed, 10 ns; and each of the others computes for 3, or waits for 10. Of
    all schedules the shortest begins that copy at once, and has the host begin at the gate: 1 + 10 + 1, then 18.
    """
    events = [[0, 1], *([[0]] * 6)]
    lab = lab_of(events, 1, 10, 10)
    floor = lab.floor(0, 1, 99, with_host=True)
    assert floor.with_host is not None
    assert (floor.compute_ns, floor.link_ns, floor.ns) == (22, 20, 20 + 18)
    assert (floor.with_host.whole.ns, floor.with_host.windows_ns) == (20, 10 + 18)
    assert shortest(events, 1, 10, 10) == 30
