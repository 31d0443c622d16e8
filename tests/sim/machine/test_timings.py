"""When requests are admitted, have their first token and end: whole runs worked out by hand, in nanoseconds.

One layer, one expert per token, and room for all experts: the first use of an expert copies (12 ns) and computes
(4 ns), each other use computes. A decode pass computes each expert of its union once.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from sim.experiment.run import Result, run_config
from sim.machine.timings import RequestTiming
from tests.sim.small_trace import SIZE, Plan, config, one_layer

COLUMNS = ["admitted_ns", "prefill_end_ns", "end_ns", "ttft_ns", "tpot_ns"]


def run(tmp_path: Path, plans: Sequence[Plan], experts: Sequence[int], **given: int) -> Result:
    trace = one_layer(tmp_path / "trace", plans, experts, n_experts=8)
    return run_config(config(trace, 8 * SIZE, **given), tmp_path / "out")  # type: ignore[arg-type]


def times(result: Result) -> dict[int, list[float | None]]:
    table = pd.read_parquet(result.folder / "requests.parquet")[["request", *COLUMNS]]
    return {r: [None if pd.isna(x) else x for x in row] for r, *row in table.itertuples(index=False)}


def test_each_request_counts_from_its_own_admission(tmp_path: Path) -> None:
    result = run(tmp_path, [Plan((1,), 2), Plan((2,), 1)], [0, 0, 1, 0, 1, 1])
    assert times(result) == {
        0: [0, 16, 36, 16, 10.0],  # prefill to 16; decode to 20, and, expert 1 being copied, to 36
        1: [36, 44, 48, 8, 4.0],  # both experts are there: two of them to compute, then one
    }
    latency = result.document["latency_ms"]
    assert [latency[key]["mean"] for key in ("ttft", "tpot", "request")] == pytest.approx([12e-6, 7e-6, 24e-6])
    assert result.document["totals"]["wall_ns"] == 48


def test_at_batch_4_the_fourth_waits_for_three_prefills(tmp_path: Path) -> None:
    plans = [Plan((1,), 1) for _ in range(6)]
    result = run(tmp_path, plans, [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1], batch=4)
    assert times(result) == {
        # Four prefills of 16 ns each; then one decode pass of four experts, 4 ns each, from 64 to 80.
        0: [0, 16, 80, 16, 64.0],
        1: [0, 32, 80, 32, 48.0],
        2: [0, 48, 80, 48, 32.0],
        3: [0, 64, 80, 64, 16.0],
        # All four have ended at 80: two prefills of 4 ns, and one decode pass of two experts.
        4: [80, 84, 96, 4, 12.0],
        5: [80, 88, 96, 8, 8.0],
    }
    latency = result.document["latency_ms"]
    assert latency["ttft"]["mean"] == pytest.approx((16 + 32 + 48 + 64 + 4 + 8) / 6 * 1e-6)
    assert latency["request"]["mean"] == pytest.approx((4 * 80 + 2 * 16) / 6 * 1e-6)


def test_a_prefill_delays_the_tokens_of_the_others(tmp_path: Path) -> None:
    """Batch 2; request 1 ends first, and request 2 is admitted and prefilled between the decode passes of 0."""
    result = run(tmp_path, [Plan((1,), 2), Plan((1,), 1), Plan((1,), 1)], [0, 0, 0, 0, 0, 1, 1], batch=2)
    assert times(result) == {
        # Prefill of 0 to 16, of 1 to 20; decode pass to 24; prefill of 2 to 40; decode pass of experts 0, 1 to 48.
        0: [0, 16, 48, 16, 16.0],
        1: [0, 20, 24, 20, 4.0],
        2: [24, 40, 48, 16, 8.0],
    }


def test_a_request_without_decode_steps_ends_with_its_prefill(tmp_path: Path) -> None:
    result = run(tmp_path, [Plan((1,)), Plan((1,), 1), Plan((1,))], [0, 0, 0, 0], batch=2)
    assert times(result) == {
        0: [0, 16, 16, 16, None],
        1: [0, 20, 28, 20, 8.0],
        2: [16, 24, 24, 8, None],  # admitted when 0 ends, at 16, while 1 is prefilled
    }
    assert result.document["latency_ms"]["tpot"]["mean"] == pytest.approx(8e-6)


def test_chunks_of_a_prefill_are_one_time_to_first_token(tmp_path: Path) -> None:
    result = run(tmp_path, [Plan((1, 2), 1), Plan((1, 1, 1))], [0, 0, 0, 0, 0, 1, 0])
    assert times(result) == {0: [0, 20, 24, 20, 4.0], 1: [24, 48, 48, 24, None]}


def test_decoding_alone_counts_from_admission(tmp_path: Path) -> None:
    result = run(tmp_path, [Plan((), 2, prompt=5), Plan((), 1, prompt=5)], [0, 0, 1])
    assert times(result) == {0: [0, None, 20, None, 10.0], 1: [20, None, 36, None, 16.0]}
    assert result.document["latency_ms"]["ttft"] is None
    assert "latency_ms.ttft" in result.document["nulls"]
    assert result.document["totals"]["generated_tokens"] == 3


def test_the_measured_window_admits_when_it_begins(tmp_path: Path) -> None:
    """Two requests warm up to 40; the two measured are admitted then, at a batch of 2."""
    plans = [Plan((1,), 1) for _ in range(4)]
    result = run(tmp_path, plans, [0, 0, 1, 1, 0, 0, 1, 1], batch=2, warmup=2)
    begin = 16 + 16 + 8
    assert times(result) == {
        2: [begin, begin + 4, begin + 16, 4, 12.0],
        3: [begin, begin + 8, begin + 16, 8, 8.0],
    }
    assert result.document["totals"]["wall_ns"] == 16


def test_a_timing_counts_the_first_token_only_where_it_was_recorded() -> None:
    assert RequestTiming(5, 9, 21, 4, 3).generated == 4
    assert RequestTiming(5, None, 21, 0, 3).generated == 3
    assert RequestTiming(5, 9, 9, 4, 0).generated == 1
    assert RequestTiming(5, 9, 21, 4, 3).tpot_ns == 4
    assert RequestTiming(5, 9, 9, 4, 0).tpot_ns is None
