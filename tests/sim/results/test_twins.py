"""Runs that differ only in what is kept beside their figures are one run, and bounds are everybody's."""

import json
import shutil
from dataclasses import fields
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim.experiment.config import RunConfig
from sim.experiment.run import run_config
from sim.results.compare.comparison import compare
from sim.results.finished import Found, runs
from sim.results.load import GROUPS
from tests.sim.many_requests import grid, topical
from tests.sim.small_trace import SIZE, config
from traces import Trace

KEPT = ("bounds", "log", "timeline")
"""Keys that say what is kept beside the figures."""

BESIDE = ["folder", "also_in", "cell", "nulls"]
"""Columns that tell of one result, and not of the run."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return topical(tmp_path_factory.mktemp("twins") / "trace", n=8)


def result(given: RunConfig, out: Path) -> dict[str, Any]:
    return json.loads((run_config(given, out).folder / "result.json").read_text())


def test_a_key_tells_runs_apart_if_and_only_if_it_can_change_a_figure(trace: Trace, tmp_path: Path) -> None:
    """Whoever adds a key to a configuration says here which it is."""
    changes: dict[str, Any] = {
        "budget": 3 * SIZE,
        "chunks": 2,
        "warmup": 1,
        "limit": 5,
        "seed": 1,
        "bounds": True,
        "log": True,
        "timeline": True,
    }
    others = {"trace": "by its hash", "measure": "wants a split"}
    assert {f.name for f in fields(RunConfig)} == {*changes, *GROUPS, *others}
    usual = config(trace, 4 * SIZE)
    plain = result(usual, tmp_path)
    for key, value in changes.items():
        changed = result(RunConfig.from_dict({**_dict(usual), key: value}), tmp_path)
        one = len(runs([Found.of("a", plain), Found.of("b", changed)])) == 1
        assert one == (key in KEPT), key
        if one:
            figures = {"latency_ms", "hit_rate", "stall_ms_per_token", "bytes_per_token", "memory", "totals"}
            assert {k: plain[k] for k in figures} == {k: changed[k] for k in figures}
            assert plain["provenance"]["decision_digest"] == changed["provenance"]["decision_digest"]
    elsewhere = shutil.copytree(trace.path, tmp_path / "elsewhere")
    assert len(runs([Found.of("a", plain), Found.of("b", result(config(elsewhere, 4 * SIZE), tmp_path / "x"))])) == 1


def _dict(given: RunConfig) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in fields(RunConfig)}


def test_no_twin_changes_a_mean(trace: Trace, tmp_path: Path) -> None:
    """The law: whatever was run, a run beside it that differs in such keys alone changes nothing."""
    seeds = (0, 1)
    base = grid(trace, tmp_path / "base", ("lru", "fifo"), (3,), seeds, bounds=True)
    before, said = sim.load(base), compare(base)
    several = chain.from_iterable(combinations(KEPT, n) for n in (1, 2, 3))
    for i, keys in enumerate(several):
        both = shutil.copytree(base, tmp_path / str(i))
        changes = {key: key != "bounds" for key in keys}
        grid(trace, both, ("lru",), (3,), (i % 2,), **({"bounds": True} | changes))
        after = sim.load(both)
        pd.testing.assert_frame_equal(after.drop(columns=BESIDE), before.drop(columns=BESIDE))
        assert sorted(map(len, map(json.loads, after["also_in"]))) == [0, 0, 0, 1]
        found = compare(both)
        pd.testing.assert_frame_equal(found.cells, said.cells)
        pd.testing.assert_frame_equal(found.pairs, said.pairs)
        pd.testing.assert_frame_equal(found.references, said.references)


def test_a_limit_that_leaves_all_requests_is_none(trace: Trace, tmp_path: Path) -> None:
    for limit in (None, 8, 1000):
        run_config(config(trace, 4 * SIZE, limit=limit), tmp_path)
    run_config(config(trace, 4 * SIZE, limit=7), tmp_path)
    assert sorted(sim.load(tmp_path)["requests"]) == [7, 8]
    assert len(list(tmp_path.glob("lru-*"))) == 2, "and it is read, not run again"


def test_bounds_are_lent_to_every_row_for_which_they_hold(trace: Trace, tmp_path: Path) -> None:
    """As if each had been asked for its own: to the last digit, and with the reason gone."""
    for name, bounds in (("own", True), ("shared", False)):
        grid(trace, tmp_path / name, ("lru", "fifo", "random"), (3, 5), (0, 1), bounds=bounds)
    grid(trace, tmp_path / "shared", ("on_demand",), (3,), (0, 1), bounds=True)
    run_config(config(trace, 3 * SIZE, limit=4), tmp_path / "shared")
    own, shared = sim.load(tmp_path / "own"), sim.load(tmp_path / "shared")
    shared = shared[(shared["policy"] != "on_demand")]
    columns = [name for name in own if name.startswith(("bound_", "infinite_", "belady_", "perfect_"))]
    assert len(columns) > 20
    some = (shared["budget_bytes"] == 3 * SIZE) & shared["limit"].isna()
    assert some.sum() == 6
    key = ["policy", "seed"]
    pd.testing.assert_frame_equal(
        shared[some].set_index(key)[columns].sort_index(),
        own[own["budget_bytes"] == 3 * SIZE].set_index(key)[columns].sort_index(),
    )
    assert shared[~some][columns].isna().all(axis=None), "another budget, and another window"
    assert set(shared[some]["nulls"]) == set(own[own["budget_bytes"] == 3 * SIZE]["nulls"])


def test_bounds_on_which_results_disagree_are_nobody_elses(trace: Trace, tmp_path: Path) -> None:
    """Two states of the engine are mixed here: which of them a third run is of, nobody can say."""
    lru, fifo, other = (
        result(config(trace, 3 * SIZE, policy=policy, bounds=bounds), tmp_path)
        for policy, bounds in (("lru", True), ("fifo", True), ("random", False))
    )
    fifo["bounds"]["belady_bypass"]["bytes"] += 1
    found = [Found.of(name, it) for name, it in (("a", lru), ("b", fifo), ("c", other))]
    assert [run.result["bounds"] is None for run in runs(found)] == [False, False, True]
    assert [run.result["bounds"] is None for run in runs(found[::2])] == [False, False]


def test_neither_lossy_rows_nor_devices_borrow(trace: Trace, tmp_path: Path) -> None:
    lru = result(config(trace, 3 * SIZE, bounds=True), tmp_path)
    plain = result(config(trace, 3 * SIZE, policy="fifo"), tmp_path)
    for own in ({"lossless": False}, {"device": {"name": "H200"}}):
        other = {**plain, "provenance": {**plain["provenance"], **own}}
        assert [run.result["bounds"] is None for run in runs([Found.of("a", lru), Found.of("b", other)])] == [
            False,
            True,
        ]
    twice = [Found.of("a", other), Found.of("b", other)]
    assert len(runs(twice)) == 2, "what is measured again is another run"
