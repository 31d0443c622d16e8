"""The future: next uses by definition, whatever the blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bounds import future as module
from policies.bounds.future import Future, FutureError
from policies.bounds.reference_rows import BeladyForced
from tests.policies.bounds.toy import one_by_one

EVENTS = st.lists(st.lists(st.integers(0, 6), unique=True, max_size=5), max_size=30)


@given(EVENTS, st.integers(1, 40))
def test_next_use_by_definition(events: list[list[int]], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        future = Future.of(events, 7)
        told = list(future.events())
    events = [event for event in events if event]
    n = len(events)
    assert future.n_events == n
    assert [experts for experts, _ in told] == events
    for i, (experts, next_use) in enumerate(told):
        assert next_use == [next((j for j in range(i + 1, n) if x in events[j]), n) for x in experts]
    assert future.first_use.tolist() == [next((j for j in range(n) if x in events[j]), n) for x in range(7)]


def test_what_is_no_demand_set_is_refused() -> None:
    with pytest.raises(ValueError, match="event 1 demands expert 3 twice"):
        Future.of([[3], [2, 3, 3]], 4)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"demands expert .*{wrong}"):
            Future.of([[wrong]], 4)


def test_a_run_must_keep_to_its_future() -> None:
    lab = one_by_one([0, 1, 2, 0], 3, 2)
    policy = BeladyForced(lab.setup)
    with pytest.raises(FutureError, match="a future of 4 experts for 1 x 3"):
        policy.foresee(Future.of([[0]], 4))
    lab.passes[2].demand[0][0] = 1
    other = one_by_one([0, 1, 2, 0], 3, 2).future()
    policy.foresee(other)
    lab.future = lambda start=0: other  # type: ignore[method-assign]
    with pytest.raises(FutureError, match=r"event 2 demands \[1\], foretold was \[2\]"):
        lab.run(policy)
