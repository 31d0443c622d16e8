"""Demand sets from recorded rows, by hand: token order, tokens per expert, and entries that are absent."""

from pathlib import Path

import numpy as np
import pytest

import sim.workload.passes
from sim.workload.passes import DemandReader, merge
from tests.sim.small_trace import ABSENT, Plan, write
from traces import Trace

# Four experts per layer: expert numbers are 0-3, 4-7, 8-11. The middle layer did not see the row 1, and chose one
# expert for the rows 2 and 4; the last layer did not see the row 3.
IDS = [
    [[0, 1], [2, 3], [1, 0]],
    [[1, 2], [ABSENT, ABSENT], [0, 2]],
    [[2, 0], [3, ABSENT], [0, 1]],
    [[3, 1], [0, 3], [ABSENT, ABSENT]],
    [[3, 0], [2, ABSENT], [3, 2]],
]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return write(tmp_path / "t", [Plan((3,), 2)], IDS, n_experts=4)


def test_the_union_of_a_prefill_is_in_order_of_last_use(trace: Trace) -> None:
    demand, tokens = DemandReader(trace).union([(0, 3)])
    # Layer 0 chose 0 1 | 1 2 | 2 0: last used are 1, then 2, then 0. Layer 1: 2 3 | - | 3. Layer 2: 1 0 | 0 2 | 0 1.
    assert demand == [[1, 2, 0], [6, 7], [10, 8, 9]]
    assert tokens == [[2, 2, 2], [1, 2], [1, 3, 2]]


def test_the_union_over_several_parts_follows_the_parts(trace: Trace) -> None:
    demand, tokens = DemandReader(trace).union([(3, 2), (0, 1)])
    # Layer 0: 3 1 | 3 0 | 0 1. Layer 1: 0 3 | 2 | 2 3. Layer 2: - | 3 2 | 1 0.
    assert demand == [[3, 0, 1], [4, 6, 7], [11, 10, 9, 8]]
    assert tokens == [[2, 2, 2], [1, 2, 2], [1, 1, 1, 1]]


def test_a_row_in_which_a_middle_layer_saw_nothing_demands_nothing_there(trace: Trace) -> None:
    assert DemandReader(trace).union([(1, 1)]) == ([[1, 2], [], [8, 10]], [[1, 1], [], [1, 1]])


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1024])
def test_single_rows_are_read_in_blocks_and_without_the_absent(
    trace: Trace, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim.workload.passes, "BLOCK", block)
    rows = [
        [[0, 1], [6, 7], [9, 8]],
        [[1, 2], [], [8, 10]],
        [[2, 0], [7], [8, 9]],
        [[3, 1], [4, 7], []],
        [[3, 0], [6], [11, 10]],
    ]
    assert list(DemandReader(trace).rows(0, 5)) == rows
    assert list(DemandReader(trace).rows(1, 3)) == rows[1:4]
    assert list(DemandReader(trace).rows(3, 1)) == rows[3:4]


def test_an_absent_entry_is_no_expert_of_any_layer(trace: Trace) -> None:
    reader = DemandReader(trace)
    union, tokens = reader.union([(0, 5)])
    by_row = [row for rows in reader.rows(0, 5) for row in [rows]]
    for layer in range(3):
        assert all(4 * layer <= x < 4 * layer + 4 for x in union[layer])
        assert set(union[layer]) == {x for row in by_row for x in row[layer]}
        assert sum(tokens[layer]) == sum(len(row[layer]) for row in by_row) == (np.array(IDS)[:, layer] < ABSENT).sum()


def test_the_mark_of_absence_is_not_taken_for_an_expert_of_a_later_layer(tmp_path: Path) -> None:
    """With 200 experts, 255 counted from the middle layer's first would be the number 55 of the last layer."""
    ids = [[[7, 8], [ABSENT, ABSENT], [55, 0]], [[ABSENT, ABSENT], [3, ABSENT], [1, 2]], [[7, 9], [4, 3], [2, 55]]]
    reader = DemandReader(write(tmp_path / "t", [Plan((2,), 1)], ids, n_experts=200))
    assert reader.union([(0, 2)]) == ([[7, 8], [203], [455, 400, 401, 402]], [[1, 1], [1], [1, 1, 1, 1]])
    assert reader.union([(0, 3)]) == ([[8, 7, 9], [204, 203], [400, 401, 402, 455]], [[1, 2, 1], [1, 2], [1, 1, 2, 2]])
    assert list(reader.rows(0, 2)) == [[[7, 8], [], [455, 400]], [[], [203], [401, 402]]]


def test_ids_of_two_bytes_have_their_own_mark_of_absence(tmp_path: Path) -> None:
    """With 300 experts, 255 is an expert like any other, and 65535 is absent."""
    ids = [[[255, 299]], [[255, 65535]]]
    reader = DemandReader(write(tmp_path / "t", [Plan((1,), 1)], ids, n_experts=300))
    assert list(reader.rows(0, 2)) == [[[255, 299]], [[255]]]
    assert reader.union([(0, 2)]) == ([[299, 255]], [[1, 2]])


def test_merging_rows_keeps_the_order_of_last_use_and_counts_tokens() -> None:
    assert merge([[5, 3], [3, 8], [5]]) == ([3, 8, 5], [2, 1, 2])
    assert merge([[5, 3], [3, 5]]) == ([3, 5], [2, 2])
    assert merge([[], [7, 2], []]) == ([7, 2], [1, 1])
    assert merge([[], []]) == ([], [])


def test_merging_rows_is_their_union(trace: Trace) -> None:
    reader = DemandReader(trace)
    demand, tokens = reader.union([(3, 1), (0, 1), (4, 1)])
    rows = [next(reader.rows(first, 1)) for first in (3, 0, 4)]
    assert [merge(list(layer)) for layer in zip(*rows, strict=True)] == list(zip(demand, tokens, strict=True))
