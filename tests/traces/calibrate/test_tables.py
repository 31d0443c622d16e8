"""Interpolation: exact at the measured points, monotone, and never below the floor however bytes are cut."""

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sim.prices.curves import Grid, Table


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    amounts = sorted(draw(st.sets(st.integers(1, 10**9), min_size=1, max_size=12)))
    ns = sorted(draw(st.lists(st.integers(1, 10**9), min_size=len(amounts), max_size=len(amounts))))
    return amounts, ns


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[int], list[int], list[list[int]]]:
    tokens = sorted({1} | draw(st.sets(st.integers(1, 500), max_size=4)))
    contexts = sorted({0} | draw(st.sets(st.integers(0, 500), max_size=4)))
    steps = draw(st.lists(st.integers(0, 1000), min_size=len(tokens) * len(contexts), max_size=100))
    ns: list[list[int]] = []
    for i in range(len(tokens)):
        ns.append([])
        for j in range(len(contexts)):
            before = max(ns[i - 1][j] if i else 1, ns[i][j - 1] if j else 1)
            ns[i].append(before + steps[i * len(contexts) + j])
    return tokens, contexts, ns


AMOUNTS = st.integers(0, 2 * 10**9)


@given(tables())
def test_a_table_is_exact_at_its_points(points: tuple[list[int], list[int]]) -> None:
    table = Table(*points)
    assert [table.ns(amount) for amount in points[0]] == points[1]


@given(tables(), AMOUNTS, AMOUNTS)
def test_more_never_costs_less(points: tuple[list[int], list[int]], a: int, b: int) -> None:
    table = Table(*points)
    assert table.ns(min(a, b)) <= table.ns(max(a, b))
    assert table.ns(0) == 0


@given(tables(), st.data())
def test_no_cut_of_the_bytes_beats_the_floor(points: tuple[list[int], list[int]], data: st.DataObject) -> None:
    table = Table(*points)
    sizes = st.one_of(st.integers(1, 2 * 10**9), st.sampled_from(points[0]))
    pieces = data.draw(st.lists(sizes, min_size=1, max_size=20))
    assert table.floor_ns(sum(pieces)) <= sum(table.ns(piece) for piece in pieces)


# A floor of zero would keep the law above.
@given(tables(), st.integers(1, 1000))
def test_the_floor_is_reached_by_copies_of_the_best_size(points: tuple[list[int], list[int]], n: int) -> None:
    table = Table(*points)
    amount, ns = min(zip(*points, strict=True), key=lambda point: Fraction(point[1], point[0]))
    assert table.floor_ns(n * amount) == n * ns


def test_between_points_a_line_rounded_up_once() -> None:
    table = Table([10, 20], [100, 107])
    assert [table.ns(n) for n in range(10, 21)] == [100 + math.ceil(Fraction(7 * i, 10)) for i in range(11)]


def test_beyond_the_points_the_stated_asymptotes() -> None:
    table = Table([10, 20, 40], [100, 120, 240])
    assert table.ns(1) == 100 - 9 * 2  # the first segment goes on: overhead 80, 2 ns a byte
    assert table.ns(41) == math.ceil(Fraction(240 * 41, 40))  # the largest's rate
    steep = Table([10, 20], [10, 100])
    assert steep.ns(5) == 5  # the first segment would cost less than nothing
    assert [Table([10], [30]).ns(n) for n in (1, 10, 11)] == [3, 30, 33]


@given(grids())
def test_a_grid_is_exact_at_its_points(points: tuple[list[int], list[int], list[list[int]]]) -> None:
    grid = Grid(*points)
    assert [[grid.ns(t, c) for c in points[1]] for t in points[0]] == points[2]


@given(grids(), st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_a_grid_grows_with_tokens_and_context(
    points: tuple[list[int], list[int], list[list[int]]], sizes: list[int]
) -> None:
    grid, (a, b), (c, d) = Grid(*points), sorted(sizes[:2]), sorted(sizes[2:])
    assert grid.ns(a, c) <= grid.ns(b, d)


def test_a_grid_beyond_its_ends() -> None:
    grid = Grid([1, 3], [0, 10], [[10, 20], [30, 90]])
    assert grid.ns(2, 5) == math.ceil(Fraction(15 + 60, 2))
    assert grid.ns(6, 10) == 180  # the rate of the most tokens
    assert (grid.ns(1, 20), grid.ns(3, 20)) == (30, 150)  # the last segment goes on
    assert Grid([1, 3], [0, 10], [[10, 90], [90, 91]]).ns(3, 20) == 171  # with the steepest so far
