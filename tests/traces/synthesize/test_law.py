"""The law's closed forms, by what must hold of them and against drawn states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.synthesize.draw import Source, largest
from traces.synthesize.law import (
    SCALES,
    Law,
    chances_of,
    correlations_of,
    means_of,
    overlaps_of,
    parts_of,
    resampled,
)

shapes = st.integers(4, 64).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts // 2)))


@given(shapes, st.floats(0.0, 2.0))
def test_k_experts_are_chosen_and_means_give_back_the_chances(shape: tuple[int, int], spread: float) -> None:
    experts, top_k = shape
    chances = chances_of(spread * np.linspace(-1, 1, experts), top_k)
    assert chances.sum() == pytest.approx(top_k)
    assert chances_of(means_of(chances), top_k) == pytest.approx(chances, abs=1e-4)


@given(shapes, st.floats(0.0, 1.5))
def test_overlap_grows_from_popularity_alone_to_all(shape: tuple[int, int], spread: float) -> None:
    experts, top_k = shape
    means = spread * np.linspace(-1, 1, experts)
    chances = chances_of(means, top_k)
    found = overlaps_of(means, np.array([0.0, 0.3, 0.6, 0.9, 1.0]), top_k)
    assert found[0] == pytest.approx((chances**2).sum() / top_k, abs=1e-9)
    assert found[-1] == pytest.approx(1)
    assert (np.diff(found) > 0).all()
    assert correlations_of(means, found, top_k) == pytest.approx([0.0, 0.3, 0.6, 0.9, 1.0], abs=5e-3)


def test_parts_are_those_that_the_correlations_were_made_of() -> None:
    lags, made = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256]), np.array([0.1, 0.0, 0.2, 0.0, 0.0, 0.1, 0.3])
    curve = np.exp(-lags[:, None] / SCALES) @ made[:-1] + made[-1]
    assert parts_of(lags, curve) == pytest.approx(made, abs=1e-6)
    assert parts_of(lags, np.full(9, 0.9), most=0.5).sum() == pytest.approx(0.5, abs=1e-4)
    near = parts_of(lags[:6], curve[:6])
    assert near[[4, 5]].tolist() == [0, 0]
    assert near[-1] > made[-1]


def test_what_is_drawn_has_the_overlap_of_the_closed_form() -> None:
    means = np.tile(np.linspace(-0.8, 0.8, 64), (2, 1))
    parts = np.tile([0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.2], (2, 1))
    source, held = Source(Law(means, parts, np.zeros(2), 0.3), seed=1), []
    for request in range(24):
        ids = np.stack([largest(states, 8) for states in source.states(request, 400, 0)], axis=1)
        marks = np.zeros((400, 2, 64), bool)
        np.put_along_axis(marks, ids, values=True, axis=2)
        held.append(marks)
    assert all((marks.sum(axis=2) == 8).all() for marks in held)
    for lag in (1, 8):
        found = np.mean([(marks[lag:] & marks[:-lag]).sum(axis=2).mean() / 8 for marks in held])
        correlation = 0.3 * np.exp(-lag / 10) + 0.2
        assert found == pytest.approx(overlaps_of(means[0], np.array([correlation]), 8)[0], rel=0.08)
    popular = np.sort(np.concatenate(held).mean(axis=0), axis=1)
    assert popular[:, -8:].mean() == pytest.approx(chances_of(means[0], 8)[-8:].mean(), rel=0.1)


def test_rows_are_read_at_evenly_spaced_places() -> None:
    assert resampled(np.array([0.0, 1.0]), 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert resampled(np.array([[0.0, 4.0, 8.0]]), 2).tolist() == [[0, 8]]
    assert resampled(np.array([3.0]), 4).tolist() == [3, 3, 3, 3]
