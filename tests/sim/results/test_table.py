"""The table that a person reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.experiment.run import run, run_config
from sim.results.columns import REFERENCE_ROWS
from sim.results.table import show
from tests.sim.saying import printed
from tests.sim.small_trace import SIZE, Plan, config, write
from traces.kit.telling import stdout_console
from traces.kit.units import figure


def test_tables_are_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, width in (("80", 80), ("100", 100), ("", 120), ("0", 120), ("wide", 120)):
        monkeypatch.setenv("COLUMNS", given)
        assert stdout_console().width == width
    monkeypatch.delenv("COLUMNS")
    assert stdout_console().width == 120


def test_a_long_name_leaves_room_for_the_figures(tmp_path: Path) -> None:
    """A row with many parameters once lost its figures to its name."""
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    document = dict(run_config(config(trace, 8 * SIZE), tmp_path).document)
    given = {f"parameter_{i}": "a_long_value" for i in range(9)}
    document["config"] = {**document["config"], "policy": {"name": "lru", **given}}
    text = "\n".join(printed(show, document))
    assert "…" not in text
    assert all(key in text for key in given)
    assert f" {figure(1000 / document['throughput_tokens_per_s'])} " in text


def columns(lines: list[str], head: str) -> dict[str, str]:
    """The figures below a head, by row."""
    at = next(i for i, line in enumerate(lines) if "TTFT ms" in line)
    end = lines[at].index(head) + len(head)
    rows = lines[at + 1 : at + 1 + lines[at + 1 :].index("")]
    return {row.split()[0]: found[0] for row in rows if (found := row[:end].split("  ")[-1].split()[-1:])}


def test_without_bounds_there_are_no_multiples_of_them(tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    for bounds in (True, False):
        lines = printed(show, run_config(config(trace, 8 * SIZE, bounds=bounds), tmp_path / "out").document)
        for words in ("time bytes", "time, bytes: multiples", "times the bound"):
            assert any(words in line for line in lines) == bounds, words
        assert any(line.startswith("per generated token, prompts included: ") for line in lines)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return run("policy=fmoe", "budget=8GB", "limit=6", out=tmp_path_factory.mktemp("runs")).document


def test_the_finding_comes_first_and_says_what_it_is_of(document: Mapping[str, Any]) -> None:
    lines = printed(show, document, 80)
    whole = document["totals"]["wall_ns"] / 1e6 / document["totals"]["generated_tokens"]
    gap = document["bounds"]["time_lower_bound"]["gap"]
    speed = figure(document["throughput_tokens_per_s"])
    assert lines[0] == (f"fmoe at 8 GB: {figure(whole)} ms per token ({speed} tokens/s), {gap:.2f} times the bound")
    assert lines[1:3] == [
        "routing of tiny-moe (14 M parameters), priced as OLMoE-1B-7B in bfloat16,",
        "simulated on RTX 4090 (published figures), batch 1, cold start",
    ]
    assert max(map(len, lines)) <= 80
    issued = document["prefetch"]["issued"]
    assert issued >= 1000
    assert any(line.startswith(f"{issued:,} prefetches: ") for line in lines), "large counts have separators"
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line or "reference" in line for line in lines)


def test_no_part_is_larger_than_the_whole_beside_it(document: Mapping[str, Any]) -> None:
    """Stalls per token once stood beside TPOT, which has no prompts in it and was the smaller one."""
    lines = printed(show, document)
    whole, stall = columns(lines, "ms/token"), columns(lines, "stall")
    assert {*REFERENCE_ROWS, "fmoe"} == set(stall)
    for row, part in stall.items():
        assert float(part) <= float(whole[row])
    assert whole["time_lower_bound"] == figure(document["bounds"]["time_lower_bound"]["ms_per_token"])
    parts = next(line for line in lines if line.startswith("ms/token: "))
    figures = [float(part.split()[-1]) for part in parts.split(" + ")]
    assert sum(figures) == pytest.approx(float(whole["fmoe"]), rel=0.01)
