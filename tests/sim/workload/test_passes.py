"""Which passes a closed loop makes, by hand: rows, KV tokens, pairs, demand sets and admissions."""

from pathlib import Path

import numpy as np
import pytest

import sim.workload.passes
from sim.workload.passes import ClosedLoop, DemandReader, Pass, merge
from tests.sim.small_trace import ABSENT, Plan, one_layer, write
from traces import Trace


def loop(trace: Trace, batch: int, requests: list[int] | None = None) -> list[Pass]:
    return list(ClosedLoop(trace, batch).passes(range(len(trace.requests)) if requests is None else requests))


def order(passes: list[Pass]) -> list[str]:
    """P2: the prefill of request 2; D02: a decode pass of requests 0 and 2."""
    return [("P" if p.prefill else "D") + "".join(map(str, p.requests)) for p in passes]


def test_kv_tokens_and_pairs_of_one_request(tmp_path: Path) -> None:
    """A prompt of 5 in chunks of 3 and 2, then 3 tokens. Each row attends to what is in the cache and to itself."""
    trace = one_layer(tmp_path / "t", [Plan((3, 2), 3)], [0] * 8)
    passes = loop(trace, 1)
    assert [p.prefill for p in passes] == [True, True, False, False, False]
    assert [p.parts for p in passes] == [[(0, 3)], [(3, 2)], [(5, 1)], [(6, 1)], [(7, 1)]]
    assert [p.rows for p in passes] == [3, 2, 1, 1, 1]
    # 3 tokens; 3 + 2; then the 5 of the prompt and one more each time: a decode step reads its own token's keys too.
    assert [p.kv_tokens for p in passes] == [3, 5, 6, 7, 8]
    # 1 + 2 + 3; (3 + 1) + (3 + 2); then one row against all.
    assert [p.pairs for p in passes] == [6, 9, 6, 7, 8]


def test_decoding_alone_starts_with_the_prompt_in_the_cache(tmp_path: Path) -> None:
    trace = one_layer(tmp_path / "t", [Plan((), 2, prompt=10)], [0, 1])
    passes = loop(trace, 1)
    assert order(passes) == ["D0", "D0"]
    assert [(p.kv_tokens, p.pairs) for p in passes] == [(11, 11), (12, 12)]


def test_a_batch_sums_rows_kv_tokens_and_pairs(tmp_path: Path) -> None:
    trace = one_layer(tmp_path / "t", [Plan((4,), 2), Plan((2,), 2), Plan((), 2, prompt=20)], [0] * 12)
    passes = loop(trace, 3)
    assert order(passes) == ["P0", "P1", "D012", "D012"]
    assert [p.rows for p in passes] == [4, 2, 3, 3]
    assert [p.parts for p in passes[2:]] == [[(4, 1), (8, 1), (10, 1)], [(5, 1), (9, 1), (11, 1)]]
    assert [p.kv_tokens for p in passes] == [4, 2, 5 + 3 + 21, 6 + 4 + 22]
    assert [p.pairs for p in passes] == [10, 3, 5 + 3 + 21, 6 + 4 + 22]


def test_a_batch_demands_the_union_in_token_order(tmp_path: Path) -> None:
    """Two layers of four experts. A joined pass is as if its rows were tokens of one step, in the order of requests."""
    ids = [
        [[0, 1], [0, 1]],
        [[0, 1], [2, 3]],  # request 0 decodes
        [[2, 3], [1, 2]],
        [[0, 1], [0, 1]],
        [[1, 2], [255, 255]],  # request 1 decodes
        [[3, 0], [1, 255]],
    ]
    trace = write(tmp_path / "t", [Plan((1,), 2), Plan((1,), 2)], ids, n_experts=4)
    first, second = loop(trace, 2)[2:]
    assert first.requests == second.requests == (0, 1)
    assert first.demand == [[0, 1, 2], [6, 7]]  # 0 1 | 1 2 and 2 3 | -
    assert first.tokens == [[1, 2, 1], [1, 1]]
    assert second.demand == [[2, 3, 0], [6, 5]]  # 2 3 | 3 0 and 1 2 | 1
    assert second.tokens == [[1, 2, 1], [1, 2]]


def test_a_token_alone_counts_once_where_it_was_seen(tmp_path: Path) -> None:
    ids = [[[0, 1], [2, 3]], [[3, 1], [255, 255]], [[2, 255], [0, 3]]]
    trace = write(tmp_path / "t", [Plan((1,), 2)], ids, n_experts=4)
    passes = loop(trace, 1)
    assert [p.demand for p in passes] == [[[0, 1], [6, 7]], [[3, 1], []], [[2], [4, 7]]]
    assert [p.tokens for p in passes] == [[[1, 1], [1, 1]], [[1, 1], []], [[1], [1, 1]]]


ONE = Plan((1,), 1)
ALONE = [Plan((), 1, prompt=4), Plan((), 2, prompt=4)]
LOOPS = {
    "one at a time": (
        *(1, [Plan((1,), 2), Plan((2,)), Plan((1, 1), 1)], "P0 D0 D0 P1 P2 P2 D2"),
        [(0,), (), (), (1,), (2,), (), ()],
    ),
    # Request 1 is active for its prefill only: the next one is admitted before the next decode pass.
    "decode steps 2, 0, 1, 3, 1": (
        *(2, [Plan((1,), n) for n in (2, 0, 1, 3, 1)], "P0 P1 P2 D02 P3 D03 P4 D34 D3"),
        [(0, 1), (), (2,), (), (3,), (), (4,), (), ()],
    ),
    # Both end in one pass: both followers are admitted then, and prefilled in order.
    "who ends at once is followed at once": (2, [ONE] * 4, "P0 P1 D01 P2 P3 D23", [(0, 1), (), (), (2, 3), (), ()]),
    "no decode steps": (3, [Plan((1,))] * 4, "P0 P1 P2 P3", [(0, 1, 2), (3,), (), ()]),
    "no prefill, admitted all the same": (2, [*ALONE, ONE], "D01 P2 D12", [(0, 1), (2,), ()]),
}


@pytest.mark.parametrize(("batch", "plans", "passes", "admits"), LOOPS.values(), ids=LOOPS)
def test_who_is_admitted_when(
    batch: int, plans: list[Plan], passes: str, admits: list[tuple[int, ...]], tmp_path: Path
) -> None:
    found = loop(one_layer(tmp_path / "t", plans, [0] * sum(plan.rows for plan in plans)), batch)
    assert order(found) == passes.split()
    assert [p.admits for p in found] == admits


def test_requests_run_in_the_order_given(tmp_path: Path) -> None:
    trace = one_layer(tmp_path / "t", [ONE] * 4, [0] * 8)
    assert order(loop(trace, 2, [3, 1, 0])) == ["P3", "P1", "D31", "P0", "D0"]
    assert loop(trace, 2, []) == []


@pytest.mark.parametrize("seed", range(12))
def test_the_batch_is_full_while_requests_wait(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, 5))
    plans = []
    for _ in range(int(rng.integers(1, 12))):
        prefill = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
        decode = int(rng.integers(0, 5)) if prefill else int(rng.integers(1, 5))
        plans.append(Plan(prefill, decode, prompt=0 if prefill else 3))
    rows = sum(plan.rows for plan in plans)
    trace = one_layer(tmp_path / "t", plans, rng.integers(0, 4, rows).tolist())
    passes = loop(trace, batch)

    assert sum((p.admits for p in passes), ()) == tuple(range(len(plans)))
    parts: dict[int, list[tuple[int, int]]] = {r: [] for r in range(len(plans))}
    left = {r: len(plan.prefill) + plan.decode for r, plan in enumerate(plans)}
    active: set[int] = set()
    waiting = list(range(len(plans)))
    for step in passes:
        # Who ended with the last pass is followed now, by the next and nobody else.
        admitted = tuple(waiting[: batch - len(active)])
        assert step.admits == admitted
        del waiting[: len(admitted)]
        active |= set(admitted)
        assert set(step.requests) <= active
        if not step.prefill:
            assert step.requests == tuple(sorted(active)), "a decode pass leaves somebody out"
            assert len(step.requests) == batch or not waiting
        for request, part in zip(step.requests, step.parts, strict=True):
            parts[request].append(part)
            left[request] -= 1
            if not left[request]:
                active.remove(request)
    assert not waiting
    assert not active
    steps = [(int(s["request"]), (int(s["first_row"]), int(s["rows"]))) for s in trace.steps]
    assert parts == {r: [part for request, part in steps if request == r] for r in parts}


# -- demand sets ------------------------------------------------------------------------------------------------

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


def test_a_union_is_in_order_of_last_use_part_after_part(trace: Trace) -> None:
    demand, tokens = DemandReader(trace).union([(0, 3)])
    # Layer 0 chose 0 1 | 1 2 | 2 0: last used are 1, then 2, then 0. Layer 1: 2 3 | - | 3. Layer 2: 1 0 | 0 2 | 0 1.
    assert demand == [[1, 2, 0], [6, 7], [10, 8, 9]]
    assert tokens == [[2, 2, 2], [1, 2], [1, 3, 2]]
    demand, tokens = DemandReader(trace).union([(3, 2), (0, 1)])
    # Layer 0: 3 1 | 3 0 | 0 1. Layer 1: 0 3 | 2 | 2 3. Layer 2: - | 3 2 | 1 0.
    assert demand == [[3, 0, 1], [4, 6, 7], [11, 10, 9, 8]]
    assert tokens == [[2, 2, 2], [1, 2, 2], [1, 1, 1, 1]]
    # A middle layer that saw nothing demands nothing.
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
