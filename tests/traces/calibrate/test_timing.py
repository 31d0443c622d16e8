"""The stopwatch and the columns, without a clock that anybody waits for."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from traces.calibrate import timing
from traces.calibrate.copies import Buffers, contended_sizes, sizes
from traces.calibrate.tables import Rows, Sample, pooled, pooled_grid
from traces.calibrate.timing import MIN_SAMPLES, Budget, Clock, beside, measure

CPU = torch.device("cpu")


def test_a_sample_is_the_median_per_call_after_a_warm_up() -> None:
    took = iter([9e9, 1e6, 3e6, 1e6, 2e6, 5e6, 4e6])
    assert measure(lambda n: next(took) * n, seconds=0) == Sample(3_000_000, 2_000_000, 4_000_000, MIN_SAMPLES)


def test_short_calls_are_timed_in_batches() -> None:
    asked: list[int] = []

    def timed(n: int) -> float:
        asked.append(n)
        return 10_000.0 * n

    assert measure(timed, seconds=0).median == 10_000
    assert asked == [1, 1] + [30] * MIN_SAMPLES


def test_more_time_is_more_samples_up_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def timed(n: int) -> float:
        nonlocal now
        now += 0.125
        return 1.25e8 * n

    monkeypatch.setattr(timing.time, "monotonic", lambda: now)
    assert measure(timed, seconds=1.25).count == 8  # two of the ten were warm-up
    assert measure(timed, seconds=1e9).count == timing.MAX_SAMPLES


def test_a_budget_passes_on_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(timing.time, "monotonic", lambda: now)
    budget = Budget(10, 4)
    assert budget.share() == 2.5
    now = 1.0
    assert budget.share() == 3.0
    now = 20.0
    assert budget.share() == 0


def test_a_call_is_given_other_memory_each_time() -> None:
    numbers: list[int] = []
    clock = Clock(CPU)
    clock.wall_ns(numbers.append, 3)
    clock.device_ns(numbers.append, 2)
    assert numbers == [0, 1, 2, 3, 4]


# A step's alarm left it running for ever, beside all that was measured afterwards.
def test_a_load_ends_where_its_start_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout == 30:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(timing.threading, "Event", Interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), beside(ran.append):
        pass
    assert set(threading.enumerate()) == before


def test_a_load_runs_beside_and_ends() -> None:
    ran: list[int] = []
    with beside(ran.append):
        pass
    before = len(ran)
    assert 1 <= before == len(ran)


# What it was beside would have been measured alone, and said to be beside it.
@pytest.mark.parametrize("at", [0, 3])
def test_a_load_that_dies_is_an_error(at: int) -> None:
    over = threading.Event()

    def load(i: int) -> None:
        if i == at:
            over.set()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), beside(load):
        over.wait(10)


def test_copies_walk_through_all_of_the_memory() -> None:
    buffers = Buffers(Clock(CPU), 1 << 20)
    buffers.device.zero_()
    call = buffers.copy("copy_h2d_pinned", 1 << 18)
    for i in range(3):
        call(i)
    assert torch.equal(buffers.device[: 3 << 18], buffers.pinned[: 3 << 18])
    assert not buffers.device[3 << 18 :].any()
    call(7)
    assert torch.equal(buffers.device, buffers.pinned)
    buffers.pageable.zero_()
    buffers.copy("copy_d2h_pageable", 1 << 20)(0)
    assert torch.equal(buffers.pageable, buffers.device_out)


def test_sizes_are_powers_of_two_from_64_kib() -> None:
    assert sizes(512 << 20) == [65536 * 2**i for i in range(14)]
    assert contended_sizes(512 << 20) == [n << 20 for n in (1, 4, 16, 64, 256)]
    assert contended_sizes(1 << 18) == [1 << 18]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_pooled_medians_rise_and_are_kept_where_they_rose(values: list[int]) -> None:
    assert pooled(values) == sorted(pooled(values))
    assert pooled(sorted(values)) == sorted(values)
    assert set(pooled(values)) <= set(values)


def test_one_slow_point_does_not_lift_the_others() -> None:
    assert pooled([1, 2, 900, 3, 4, 5]) == [1, 2, 3, 3, 4, 5]


@given(st.lists(st.lists(st.integers(1, 100), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_pooled_grid_rises_both_ways(rows: list[list[int]]) -> None:
    found = pooled_grid(rows)
    assert all(row == sorted(row) for row in found)
    assert all(list(column) == sorted(column) for column in zip(*found, strict=True))
    assert pooled_grid(found) == found


def test_columns_hold_the_medians_as_they_were() -> None:
    rows = Rows({"bytes": [1, 2]}, [Sample(7, 6, 8, 5), Sample(5, 4, 9, 6)])
    columns = rows.columns()
    assert columns["median_ns"] == [7, 5]
    assert columns["ns"] == sorted(columns["ns"])
    assert (columns["q1_ns"], columns["q3_ns"], columns["count"]) == ([6, 4], [8, 9], [5, 6])
