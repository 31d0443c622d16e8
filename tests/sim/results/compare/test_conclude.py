"""What was found is one clause per policy, the target's answer before it and what may not be concluded behind it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sim.results.compare.comparison import compare, compare_runs
from sim.results.compare.conclude import conclude
from sim.results.compare.words import budgets, sizes
from tests.sim.many_requests import grid, topical
from tests.sim.results.compare.comparing import copies, printed


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clauses")
    return grid(topical(folder / "trace", n=30), folder / "out", ("lru", "fifo"), (4, 8), (0,))


def scaled(out: Path, name: str, by: dict[int, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """LRU, and under another name with times that are a multiple at each budget."""
    runs, requests = copies(out, name)
    for budget, factor in by.items():
        requests.loc[(requests["policy_label"] == name) & (requests["budget_bytes"] == budget), "tpot_ns"] *= factor
    return runs, requests


def test_a_policy_is_one_clause_by_effect(out: Path) -> None:
    assert conclude(compare_runs(*scaled(out, "fast", {48: 0.9, 96: 0.8})))[0] == (
        "fast: 10 to 20 % lower TPOT than lru at 48 and 96 B; 15.0 % lower on average over 48 and 96 B"
        " (14.6 to 15.3 %)."
    )
    both = conclude(compare_runs(*scaled(out, "turns", {48: 0.9, 96: 1.1})))[0]
    assert both.startswith("turns: 10.0 % lower TPOT than lru at 48 B (10.0 %); 10.0 % higher at 96 B (10.0 %); on ")
    assert "not shown to differ (" in both
    assert conclude(compare_runs(*scaled(out, "same", {})))[0] == "Equal to lru wherever both were run: same."


def test_there_is_no_share_of_a_baseline_that_takes_no_time(out: Path) -> None:
    runs, requests = scaled(out, "fast", {48: 0.9})
    nothing = (requests["policy_label"] == "lru") & (requests["budget_bytes"] == 96)
    requests["tpot_ns"] = requests["tpot_ns"].astype("Float64").mask(nothing, 0.0)
    found = compare_runs(runs, requests)
    assert conclude(found)[0] == "fast: 10.0 % lower TPOT than lru at 48 B (10.0 %)."
    assert "fast at 96 B: lru takes no time there, of which there is no share." in found.missing
    requests["tpot_ns"] = requests["tpot_ns"] * 0
    assert conclude(compare_runs(runs, requests))[0] == "Neither a difference from lru nor its absence is shown: fast."


def test_the_largest_gain_comes_first(out: Path) -> None:
    parts = [scaled(out, "slow", {48: 1.2, 96: 1.2})]
    for name, factor in (("a", 0.9), ("b", 0.7)):
        runs, requests = scaled(out, name, {48: factor, 96: factor})
        parts.append((runs[runs["policy_label"] == name], requests[requests["policy_label"] == name]))
    runs, requests = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    assert [line.partition(":")[0] for line in conclude(compare_runs(runs, requests))[:3]] == ["b", "a", "slow"]


def test_the_target_is_answered_first_and_findings_stand_before_limits(out: Path) -> None:
    lines = printed(compare(out, target="tpot<=1ms"), 80)
    beginnings = (
        *("TPOT in ms, mean over 30 requests: 2 policies at 2 budgets", "routing of tiny, ", "simulated on by_hand"),
        *("What was found", "- The smallest budget here that meets tpot<=1ms", "- fifo: "),
        *("48 and 96 B together", "budget 48 B", "budget 96 B", "What may not be concluded"),
    )
    at = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in beginnings]
    assert at == sorted(at)
    assert at[4] == at[3] + 1


def test_with_too_few_requests_no_column_is_empty(tmp_path: Path) -> None:
    out = grid(topical(tmp_path / "t", n=8), tmp_path / "out", ("lru", "fifo"), (4, 8), (0,), limit=5)
    for found in (compare(out), compare(out, selection=["policy=lru"])):
        lines = printed(found, 120)
        heads = next(line for line in lines if "TPOT ms" in line)
        assert "interval" not in heads
        assert " p " not in heads
        assert sum("very few" in line for line in lines) == 1
        assert not any("significant" in line or "corrected" in line for line in lines)


def test_budgets_and_shares_are_said_as_a_reader_says_them() -> None:
    every = [x * 10**9 for x in (2, 4, 6, 8, 10)]
    assert budgets(every, every) == "2 to 10 GB"
    assert budgets(every[:2], every) == "2 and 4 GB"
    assert budgets([every[0], every[1], every[4]], every) == "2, 4 and 10 GB"
    assert budgets(every[2:3], every) == "6 GB"
    assert budgets([5 * 10**8, 10**9], [5 * 10**8, 10**9]) == "500 MB and 1 GB"
    given = ([-0.0647, -0.1651], [0.012, 0.023], [-0.081], [0.07, 0.0701])
    assert [sizes(shares) for shares in given] == ["6 to 17 %", "1.2 to 2.3 %", "8.1 %", "7 %"]
