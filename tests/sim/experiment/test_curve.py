"""LRU's curve from one pass is the simulator's, hit for hit, where it says that it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cli import main
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.run import simulate
from sim.experiment.stack import curve_of
from tests.sim.saying import refused
from tests.sim.small_trace import SIZE, Plan, config, one_layer, some_absent, write
from traces.kit.errors import UserError


def simulated(path: Path, slots: int, **changes: int) -> tuple[int, int]:
    """Complete hits in prefill and decode on the simulated machine."""
    cell = make_cell(config(path, slots * SIZE + slots % SIZE, **changes))
    accounts = simulate(cell, make_policy(cell)).accounts
    return accounts.hit_row(0)[3], accounts.hit_row(1)[3]


@settings(max_examples=25)
@given(data=st.data(), batch=st.integers(1, 3), chunks=st.integers(1, 3), warmup=st.integers(0, 2))
def test_the_curve_is_the_simulators_at_every_budget_that_holds_an_event(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, batch: int, chunks: int, warmup: int
) -> None:
    n_layers, n_experts = 2, data.draw(st.integers(2, 6))
    plans = [Plan((data.draw(st.integers(1, 3)),), data.draw(st.integers(1, 8))) for _ in range(4)]
    path = tmp_path_factory.mktemp("curve") / "trace"
    some_absent(path, plans, n_layers, n_experts, data.draw(st.integers(0, 2**32)))
    curve = curve_of(make_cell(config(path, SIZE, batch=batch, warmup=warmup)))
    for slots in range(curve.least, n_layers * n_experts + 1):
        expected = simulated(path, slots, batch=batch, chunks=chunks, warmup=warmup)
        assert tuple(curve.hits[:, slots].tolist()) == expected, f"{slots} slots"


def test_the_curve_is_the_samples_and_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curve", "limit=2", "format=json"]) == 0
    curve = json.loads(capsys.readouterr().out)
    at = curve["budget_bytes"].index(max(b for b in curve["budget_bytes"] if b <= 4_000_000_000))
    cell = make_cell(read_config(["policy=lru", "limit=2", "budget=4GB"]))
    accounts = simulate(cell, make_policy(cell)).accounts
    assert [curve["complete_hits"][p][at] for p in ("prefill", "decode")] == [accounts.hit_row(i)[3] for i in (0, 1)]
    assert [curve["lookups"][p] for p in ("prefill", "decode")] == [accounts.hit_row(i)[0] for i in (0, 1)]
    assert main(["curve", "limit=2"]) == 0
    assert "exact from" in capsys.readouterr().out


def test_below_the_largest_event_it_would_not_be_exact(tmp_path: Path) -> None:
    """Why the curve ends there: what was complete is computed first, and makes room for those that stream through."""
    ids = np.array([3, 0, 1, 2, 3, 3], np.uint8)[:, None, None]
    write(tmp_path / "t", [Plan((1, 4), 1)], ids, n_experts=4)
    curve = curve_of(make_cell(config(tmp_path / "t", SIZE)))
    assert curve.least == 4
    assert curve.hits[1, 2] == 1
    assert simulated(tmp_path / "t", 2)[1] == 0


# No share of it is a budget that every policy takes and every machine has.
def test_a_model_of_a_few_experts_has_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_layer(tmp_path / "t", [Plan((1,), 3)], [0, 1, 0, 1])
    assert main(["curve", f"trace={tmp_path / 't'}", "format=json"]) == 0
    curve = json.loads(capsys.readouterr().out)
    assert curve["budget_bytes"] == [SIZE, 2 * SIZE, 3 * SIZE, 4 * SIZE]
    assert curve["complete_hits"] == {"prefill": [0, 0, 0, 0], "decode": [0, 2, 2, 2]}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["policy=fmoe"], "policy=fmoe: prefetches, and its hits depend on time"),
        (["policy=lfu", "budget=4GBB"], "budget='4GBB': not a positive size"),
        (["policy=lru_layer", "budget=1KB"], "too small for policy=lru, scope='layer'; allowed: at least"),
        (["budget=4GB", "budgets=3"], "budgets=3: allowed without budget="),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_has_no_curve(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in refused(["curve", "limit=1", *words], capsys)


def test_unequal_sizes_have_no_curve(tmp_path: Path) -> None:
    write(tmp_path / "t", [Plan()], np.zeros((1, 2, 1), np.uint8), n_experts=2)
    cell = make_cell(config(tmp_path / "t", SIZE))
    cell = replace(cell, setup=replace(cell.setup, expert_bytes=(SIZE, SIZE // 2)))
    with pytest.raises(UserError, match="several sizes"):
        curve_of(cell)
