"""The search for the highest rate that does, against one that tries them all."""

import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.capacity.search import HIGHEST, LOWEST, knee, parts, rate
from sim.plan.search import together

PER = 4
GRID = range(LOWEST * PER, HIGHEST * PER + 1)


def searched(does: Callable[[int], bool], per_octave: int = PER) -> tuple[int | None, list[int]]:
    """What is found, and the steps that were asked."""
    asked, search = [next(search := knee(per_octave))], search
    while True:
        try:
            asked.append(search.send(does(asked[-1])))
        except StopIteration as done:
            return done.value, asked


@given(st.integers(LOWEST * PER - 1, HIGHEST * PER + 1))
def test_where_attainment_falls_it_is_that_of_trying_them_all(last: int) -> None:
    found, asked = searched(lambda step: step <= last)
    tried = [step for step in GRID if step <= last]
    assert found == (max(tried) if tried else None)
    assert len(asked) <= 2 * (HIGHEST - LOWEST)
    assert {*asked} <= {*GRID}


@given(st.frozensets(st.sampled_from(GRID)))
def test_where_it_does_not_fall_steadily_what_is_found_does_and_the_next_two_do_not(good: frozenset[int]) -> None:
    found, asked = searched(good.__contains__)
    if found is None:
        assert not {0, LOWEST * PER} & good
        return
    assert found in good
    assert not {found + 1, found + 2} & good & {*GRID}
    above = {found + 1, found + 2} & {*GRID}
    assert above <= {*asked}, "its neighbours were looked at"
    assert found - 1 in asked or found == LOWEST * PER
    assert not {step for step in asked if step > found} & good, "a higher one was seen to do"


@given(st.floats(0.01, 1))
def test_steps_are_within_what_is_asked_and_a_coarser_grid_is_part_of_a_finer_one(within: float) -> None:
    n = parts(within)
    assert 2 ** (1 / n) - 1 <= within < 2 ** (2 / n) - 1 or n == 1
    assert [rate(step, n) for step in range(2 * n + 1)] == [rate(4 * step, 4 * n) for step in range(2 * n + 1)]
    rates = [rate(step, 16) for step in range(-160, 160)]
    assert rates == sorted({*rates})


def test_a_rate_is_typed_as_it_is_kept() -> None:
    for step in range(-160, 193):
        value = rate(step, 16)
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value)), "no exponent"
        assert len(str(value)) <= 12
    assert [rate(step, 16) for step in (-160, -16, 0, 8, 16, 192)] == [1 / 1024, 0.5, 1, 1.414, 2, 4096]
    assert isinstance(rate(16, 16), int)


def test_several_go_on_together_and_one_that_cannot_be_asked_ends_alone() -> None:
    ends = {"a": 3, "b": -7, "c": 0}
    asked: list[Mapping[str, int]] = []

    def ask(waiting: Mapping[str, int]) -> Mapping[str, bool]:
        asked.append(dict(waiting))
        return {key: step <= ends[key] for key, step in waiting.items() if key != "c"}

    assert together({key: knee(PER) for key in ends}, ask) == {"a": 3, "b": -7}
    assert asked[0] == {"a": 0, "b": 0, "c": 0}
    assert all("c" not in one for one in asked[1:])


@pytest.mark.parametrize("within", [0.05, 0.5])
def test_the_price_of_an_answer(within: float) -> None:
    n = parts(within)
    assert len(searched(lambda step: step <= 3 * n + 1, n)[1]) <= 3 + 2 + n.bit_length() + 3
