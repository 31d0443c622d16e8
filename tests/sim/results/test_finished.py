"""One damaged result spoils no folder: the others are read, and it is named. Runs that differ only in what is kept
beside their figures are one run, and bounds are everybody's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from functools import reduce
from itertools import chain, combinations
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.core.accounts import PHASES
from sim.experiment.config import RunConfig
from sim.experiment.run import run_config
from sim.results.compare.comparison import compare
from sim.results.finished import Found, runs
from sim.results.load import GROUPS
from sim.results.report import draw
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit, refused
from tests.sim.small_trace import SIZE, config
from traces import Trace
from traces.kit.errors import UserError

HUGE = 9999999999999999999999
KEPT = ("bounds", "log", "timeline")
"""Keys that say what is kept beside the figures."""

BESIDE = ["folder", "also_in", "cell", "nulls"]
"""Columns that tell of one result, and not of the run."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return topical(tmp_path_factory.mktemp("finished") / "trace", n=8)


@pytest.fixture(scope="module")
def whole(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grid(trace, tmp_path_factory.mktemp("damaged") / "out", ("lru", "fifo"), (3,), (0, 1))


def at(path: str, value: object) -> Callable[[Path], object]:
    """Put a value at a dotted path of result.json."""

    *parents, last = path.split(".")
    return lambda folder: edit(folder, lambda it: reduce(getitem, parents, it).update({last: value}))


def content(raw: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "result.json").write_bytes(raw)


def without(*path: str) -> Callable[[Path], object]:
    *parents, last = path
    return lambda folder: edit(folder, lambda it: reduce(getitem, parents, it).pop(last))


RESULTS: dict[str, Callable[[Path], object]] = {
    "empty": content(b""),
    "cut": content(b'{"schema": 1'),
    "a list": content(b"[]"),
    "not text": content(b"\xff\xfe\x00"),
    "nested": content(b"[" * 100_000),
    "of many digits": content(b'{"schema": ' + b"1" * 5000 + b"}"),
    "another schema": at("schema", 99),
    "gone": lambda folder: (folder / "result.json").unlink(),
    "huge limit": at("config.limit", HUGE),
    "huge seed": at("config.seed", HUGE),
    "huge budget": at("config.budget_bytes", HUGE),
    "huge latency": at("latency_ms.tpot.mean", 10**400),
    "infinite": content(b'{"schema": 1, "totals": NaN}'),
    "a text for a number": at("latency_ms.tpot.mean", "fast"),
    "a text for a group": at("latency_ms", "fast"),
    "a list for a text": at("provenance.routing_from", ["x"]),
    "a number for a truth": at("provenance.lossless", 1),
    "a truth for a number": at("config.seed", True),
    "no policy": at("config.policy", None),
    "a policy without a name": at("config.policy", {}),
    "a list for a policy": at("config.policy.name", []),
    "no config": without("config"),
    "no provenance": without("provenance"),
    "no totals": without("totals"),
    "odd totals": at("totals", []),
    "odd bounds": at("bounds", {"belady_bypass": 3}),
    "odd stalls": at("stall_ms_per_token", {"demand_copy": "long"}),
    "odd nulls": at("nulls", {"x": float("nan")}),
}


@pytest.mark.parametrize("damage", RESULTS.values(), ids=RESULTS)
def test_a_damaged_result_is_named_and_the_others_are_read(
    damage: Callable[[Path], object], whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    expected = sim.load(whole)
    damage(victim)
    damaged: list[str] = []
    frame = sim.load(out, damaged)
    pd.testing.assert_frame_equal(frame, expected[expected["folder"] != victim.name].reset_index(drop=True))
    (line,) = damaged
    assert str(victim) in line
    assert "\n" not in line
    assert len(line) < 300 + len(str(victim))
    for other in out.iterdir():
        if other != victim:
            shutil.rmtree(other)
    with pytest.raises(UserError) as caught:
        sim.load(out)
    assert str(caught.value) == line


def test_who_asks_for_no_list_is_warned(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    content(b"")(victim)
    with pytest.warns(UserWarning, match=f"left out: .*{victim.name}") as warned:
        assert len(sim.load(out)) == 3
    assert [Path(one.filename) for one in warned] == [Path(__file__)]
    (victim / "requests.parquet").unlink()
    shutil.copy(sorted(whole.glob("lru-*"))[0] / "result.json", victim)
    with pytest.warns(UserWarning, match=r"left out: .*requests\.parquet"):
        assert len(sim.load_requests(out)) == 3 * 8


def _rewritten(**columns: object) -> Callable[[Path], object]:
    def damage(file: Path) -> None:
        pd.read_parquet(file).assign(**columns).to_parquet(file, index=False)

    return damage


TABLES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "other types": _rewritten(request="x", layer="x"),
    "nulls": _rewritten(end_ns=pd.NA, layer=pd.NA),
    "no rows": lambda file: pd.read_parquet(file).iloc[:0].to_parquet(file),
    "no column": lambda file: pd.read_parquet(file).iloc[:, 1:].to_parquet(file),
}


@pytest.mark.parametrize("damage", TABLES.values(), ids=TABLES)
def test_a_damaged_table_is_named_and_the_others_are_read(
    damage: Callable[[Path], object], whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    for load, name, rows in ((sim.load_requests, "requests", 8), (sim.load_layers, "layers", len(PHASES))):
        damaged: list[str] = []
        damage(victim / f"{name}.parquet")
        frame = load(out, damaged=damaged)
        assert len(frame) == 3 * rows
        assert victim.name not in set(frame["folder"])
        (line,) = damaged
        assert str(victim) in line
    for folder in out.iterdir():
        if folder != victim:
            damage(folder / "requests.parquet")
    with pytest.raises(UserError, match=r"and 3 more damaged results\)$"):
        sim.load_requests(out)


def test_a_twin_stands_in_for_a_damaged_table(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    shutil.copytree(victim, out / "zz")
    (victim / "requests.parquet").write_bytes(b"PAR1")
    damaged: list[str] = []
    assert len(sim.load_requests(out, damaged=damaged)) == 4 * 8
    (victim / "requests.parquet").unlink()
    assert len(sim.load_requests(out, damaged=damaged)) == 4 * 8
    assert damaged == []


def test_compare_and_report_show_the_rest(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    first, second = sorted(out.glob("lru-*"))
    at("config.limit", HUGE)(first)
    (sorted(out.glob("fifo-*"))[0] / "requests.parquet").unlink()
    found = compare(out)
    assert sorted(found.runs["policy"]) == ["fifo", "lru"]
    assert len([line for line in found.missing if line.startswith("Left out, as it is damaged: ")]) == 2
    assert main(["compare", str(out)]) == 0
    assert first.name in capsys.readouterr().out.replace("\n", "").replace(" ", "")
    (second / "layers.parquet").unlink()
    # Pictures take seconds, and are none of this.
    monkeypatch.setattr(draw, "_draw", lambda name, caption, *_: draw.Drawn(name, caption, (), "not asked for"))
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert first.name in page
    assert "layers.parquet" in page
    for folder in out.glob("*-*"):
        content(b"")(folder)
    for verb in ("compare", "report"):
        assert "and 3 more damaged results" in refused([verb, str(out)], capsys)


def result(given: RunConfig, out: Path) -> dict[str, Any]:
    return json.loads((run_config(given, out).folder / "result.json").read_text())


def test_a_key_tells_runs_apart_if_and_only_if_it_can_change_a_figure(trace: Trace, tmp_path: Path) -> None:
    """Whoever adds a key to a configuration says here which it is."""
    changes: dict[str, Any] = {"budget": 3 * SIZE, "chunks": 2, "warmup": 1, "limit": 5, "seed": 1}
    changes |= dict.fromkeys(KEPT, True)
    others = {
        "trace": "by its hash",
        "measure": "wants a split",
        "placement": "wants several GPUs",
        "kv": "of arrivals",
        "kv_share": "of arrivals",
        "scores": "wants a policy that foretells",
    }
    others |= dict.fromkeys(("host_memory", "host_policy", "host_tier"), "want a disk")  # see test_host_memory
    assert {f.name for f in fields(RunConfig)} == {*changes, *GROUPS, *others}
    usual = config(trace, 4 * SIZE)
    plain = result(usual, tmp_path)
    for key, value in changes.items():
        changed = result(replace(usual, **{key: value}), tmp_path)
        one = len(runs([Found.of("a", plain), Found.of("b", changed)])) == 1
        assert one == (key in KEPT), key
        if one:
            figures = {"latency_ms", "hit_rate", "stall_ms_per_token", "bytes_per_token", "memory", "totals"}
            assert {k: plain[k] for k in figures} == {k: changed[k] for k in figures}
            assert plain["provenance"]["decision_digest"] == changed["provenance"]["decision_digest"]
    elsewhere = shutil.copytree(trace.path, tmp_path / "elsewhere")
    assert len(runs([Found.of("a", plain), Found.of("b", result(config(elsewhere, 4 * SIZE), tmp_path / "x"))])) == 1


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
        both = runs([Found.of("a", lru), Found.of("b", other)])
        assert [run.result["bounds"] is None for run in both] == [False, True]
    twice = [Found.of("a", other), Found.of("b", other)]
    assert len(runs(twice)) == 2, "what is measured again is another run"
