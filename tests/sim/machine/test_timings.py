"""When requests are admitted, have their first token and end: whole runs worked out by hand, in nanoseconds.

One layer, one expert per token, and room for all experts: the first use of an expert copies (12 ns) and computes
(4 ns), each other use computes. A decode pass computes each expert of its union once.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest

from sim.experiment.run import run_config
from tests.sim.small_trace import SIZE, Plan, config, one_layer

COLUMNS = ["admitted_ns", "prefill_end_ns", "end_ns", "ttft_ns", "tpot_ns"]
ONE = Plan((1,), 1)
RUNS: dict[str, tuple[list[Plan], list[int], dict[str, int], dict[int, list[float | None]]]] = {
    "each request counts from its own admission": (
        *([Plan((1,), 2), Plan((2,), 1)], [0, 0, 1, 0, 1, 1], {}),
        {
            0: [0, 16, 36, 16, 10.0],  # prefill to 16; decode to 20, and, expert 1 being copied, to 36
            1: [36, 44, 48, 8, 4.0],  # both experts are there: two of them to compute, then one
        },
    ),
    "at batch 4 the fourth waits for three prefills": (
        *([ONE] * 6, [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1], {"batch": 4}),
        {
            # Four prefills of 16 ns each; then one decode pass of four experts, 4 ns each, from 64 to 80.
            0: [0, 16, 80, 16, 64.0],
            1: [0, 32, 80, 32, 48.0],
            2: [0, 48, 80, 48, 32.0],
            3: [0, 64, 80, 64, 16.0],
            # All four have ended at 80: two prefills of 4 ns, and one decode pass of two experts.
            4: [80, 84, 96, 4, 12.0],
            5: [80, 88, 96, 8, 8.0],
        },
    ),
    # Batch 2; request 1 ends first, and request 2 is admitted and prefilled between the decode passes of 0.
    "a prefill delays the tokens of the others": (
        *([Plan((1,), 2), ONE, ONE], [0, 0, 0, 0, 0, 1, 1], {"batch": 2}),
        # Prefill of 0 to 16, of 1 to 20; decode pass to 24; prefill of 2 to 40; decode pass of experts 0, 1 to 48.
        {0: [0, 16, 48, 16, 16.0], 1: [0, 20, 24, 20, 4.0], 2: [24, 40, 48, 16, 8.0]},
    ),
    "a request without decode steps ends with its prefill": (
        *([Plan((1,)), ONE, Plan((1,))], [0, 0, 0, 0], {"batch": 2}),
        # 2 is admitted when 0 ends, at 16, while 1 is prefilled.
        {0: [0, 16, 16, 16, None], 1: [0, 20, 28, 20, 8.0], 2: [16, 24, 24, 8, None]},
    ),
    "chunks of a prefill are one time to first token": (
        *([Plan((1, 2), 1), Plan((1, 1, 1))], [0, 0, 0, 0, 0, 1, 0], {}),
        {0: [0, 20, 24, 20, 4.0], 1: [24, 48, 48, 24, None]},
    ),
    "decoding alone counts from admission": (
        *([Plan((), 2, prompt=5), Plan((), 1, prompt=5)], [0, 0, 1], {}),
        {0: [0, None, 20, None, 10.0], 1: [20, None, 36, None, 16.0]},
    ),
    # Two requests warm up to 40; the two measured are admitted then.
    "the measured window admits when it begins": (
        *([ONE] * 4, [0, 0, 1, 1, 0, 0, 1, 1], {"batch": 2, "warmup": 2}),
        {2: [40, 44, 56, 4, 12.0], 3: [40, 48, 56, 8, 8.0]},
    ),
}


@pytest.mark.parametrize(("plans", "experts", "given", "times"), RUNS.values(), ids=RUNS)
def test_when_each_request_is_admitted_has_its_first_token_and_ends(
    plans: list[Plan], experts: list[int], given: Any, times: dict[int, list[float | None]], tmp_path: Path
) -> None:
    result = run_config(config(one_layer(tmp_path / "t", plans, experts, n_experts=8), 8 * SIZE, **given), tmp_path)
    table = pd.read_parquet(result.folder / "requests.parquet")[["request", *COLUMNS]]
    assert {r: [None if pd.isna(x) else x for x in row] for r, *row in table.itertuples(index=False)} == times
    admitted, first, ended, ttft, tpot = zip(*times.values(), strict=True)
    latency, totals = result.document["latency_ms"], result.document["totals"]
    assert totals["wall_ns"] == max(ended) - min(admitted)
    whole = [end - begin for begin, end in zip(admitted, ended, strict=True)]
    for key, ns in (("ttft", ttft), ("tpot", tpot), ("request", whole)):
        there = [x for x in ns if x is not None]
        assert (latency[key] or {"mean": None})["mean"] == (pytest.approx(fmean(there) * 1e-6) if there else None)
        assert (f"latency_ms.{key}" in result.document["nulls"]) == (not there)
    steps = sum(plans[request].decode for request in times)
    assert totals["generated_tokens"] == steps + sum(end is not None for end in first)
