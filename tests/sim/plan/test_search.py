"""The search for the least that does, on tables of what does; and the grid of budgets."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from sim.plan.search import COARSE, STEPS, Least, least, rungs, size, together

TABLES = st.lists(st.booleans(), min_size=2, max_size=40).map(lambda does: [False, *does, True])


def found(does: list[bool], low: int, high: int) -> tuple[Least, list[int]]:
    """What the search finds, and what it asked for."""
    asked: list[int] = []

    def ask(numbers: Mapping[str, int]) -> dict[str, bool]:
        asked.extend(numbers.values())
        return {name: does[number] for name, number in numbers.items()}

    return together({"one": least(low, high, len(does) - 1)}, ask)["one"], asked


@given(st.integers(1, 60), st.integers(0, 20), st.data())
def test_where_more_never_hurts_it_is_the_least_in_few_questions(at: int, above: int, data: st.DataObject) -> None:
    does = [number >= at for number in range(at + above + 1)]
    low = data.draw(st.integers(0, at - 1))
    high = data.draw(st.integers(at, at + above))
    answer, asked = found(does, low, high)
    assert answer == Least(at, uneven=False)
    assert len(asked) <= (high - low).bit_length() + 2


@given(TABLES)
def test_elsewhere_it_does_and_its_neighbours_are_looked_at(does: list[bool]) -> None:
    last = len(does) - 1
    answer, asked = found(does, 0, last)
    assert does[answer.number]
    assert not does[answer.number - 1]
    assert answer.number < 3 or not does[answer.number - 2]
    assert answer.uneven == (answer.number < last and not does[answer.number + 1])
    assert answer.number == last or answer.number + 1 in asked


def test_one_that_does_below_its_neighbour_is_found() -> None:
    does = [False, False, False, True, False, True, True]
    assert found(does, 0, 6)[0] == Least(3, uneven=True)


@given(st.lists(TABLES, min_size=1, max_size=5))
def test_together_they_find_what_each_finds_alone(tables: list[list[bool]]) -> None:
    searches = {i: least(0, len(does) - 1, len(does) - 1) for i, does in enumerate(tables)}
    both = together(searches, lambda numbers: {i: tables[i][number] for i, number in numbers.items()})
    assert both == {i: found(does, 0, len(does) - 1)[0] for i, does in enumerate(tables)}


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_larger_room_has_all_steps_of_a_smaller_one(total: int, room: int, more: int) -> None:
    few, many = rungs(total, room), rungs(total, room + more)
    assert many[: len(few)] == few
    assert all(size(number, total) <= room for number in few)
    assert rungs(total, total) == list(range(COARSE, STEPS + 1, COARSE))
    assert size(STEPS, total) == total
