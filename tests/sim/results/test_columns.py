"""Runs as tables: every figure where the schema says, and nothing taken for a run that is none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.experiment.run import run_config
from sim.results.column import DTYPES
from sim.results.columns import COLUMNS, leaves, schema_table
from sim.results.load import REQUEST_DTYPES, RUN_KEY
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit
from tests.sim.small_trace import SIZE, config
from traces.kit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    trace = topical(folder / "trace", n=8)
    grid(trace, folder / "out", ("lru", "lfu_incache", "random"), (4,), (0, 2), bounds=True)
    run_config(config(trace, 6 * SIZE, limit=3), folder / "out" / "nested" / "deeper")
    (folder / "out" / ".half.0123abcd.partial").mkdir()
    (folder / "out" / ".half.0123abcd.partial" / "result.json").write_text("half")
    return folder / "out"


def test_a_row_per_run_with_the_documented_columns(runs: Path) -> None:
    frame = sim.load(runs)
    assert len(frame) == 7
    assert list(frame.columns) == [column.name for column in COLUMNS]
    assert {c.name: str(frame[c.name].dtype) for c in COLUMNS} == {c.name: DTYPES[c.kind] for c in COLUMNS}
    assert list(frame["policy_label"]) == ["lfu_incache"] * 2 + ["lru"] * 3 + ["random"] * 2
    assert frame["folder"][4].startswith("nested/deeper/lru-")
    assert set(frame["source"]) == {"simulated"}


def test_figures_are_those_of_the_result(runs: Path) -> None:
    frame = sim.load(runs)
    for _, row in frame.iterrows():
        result = json.loads((runs / row["folder"] / "result.json").read_text())
        assert row["tpot_ms_p90"] == result["latency_ms"]["tpot"]["p90"]
        assert row["hit_decode_complete"] == result["hit_rate"]["decode"]["complete"]
        assert row["stall_ms_per_token"] == sum(result["stall_ms_per_token"].values())
        assert row["peak_bytes"] == result["memory"]["peak_bytes"]
        assert (row["seed"], row["budget_bytes"]) == (result["config"]["seed"], result["config"]["budget_bytes"])
        assert json.loads(row["nulls"]) == result["nulls"]
        assert pd.isna(row["hit_recall"])
        if result["bounds"]:
            forced = result["reference"]["belady_forced"]["latency_ms"]
            assert row["bound_time_gap"] == result["bounds"]["time_lower_bound"]["gap"]
            assert row["belady_forced_tpot_ms_mean"] == forced["tpot"]["mean"]
        else:
            assert pd.isna(row["bound_time_gap"])


def test_every_column_of_a_result_is_filled_by_some_run(tmp_path: Path) -> None:
    """A path that is mistyped in the schema would be null for ever."""
    out = f"out={tmp_path}"
    several = ["policy=lru", "hardware.gpus=2", "hardware.peer={gb_per_s: 20, latency_us: 10}"]
    mixed = ["policy=hobbit", "policy.weights=0.25/0.25/0.25/0.25", "limit=1"]
    above = ["policy=lru", "host_memory=25%", "hardware.disk.page_cache=2GB"]
    bare = "bounds=false"
    for words in (["policy=gate_ahead", "scores=true"], ["policy=daop", bare], several, [*above, bare], [*mixed, bare]):
        assert main(["run", "budget=50%", "limit=2", "hardware=h100", out, *words]) == 0
    busy = ["workload=online", "workload.rate=20", "workload.count=6", "workload.slo='ttft<=1s'", "kv=200MB"]
    assert main(["run", "policy=gate_ahead", "budget=50%", "hardware=h100", "limit=6", out, *busy]) == 0
    assert set(sim.load_requests(tmp_path)["policy"]) == {"gate_ahead", "daop", "lru", "hobbit"}
    frame = sim.load(tmp_path)
    empty = set(frame.columns[frame.isna().all()])
    no_probabilities = {"score_prefill_log_loss", "score_decode_log_loss"}  # see test_scoring
    assert empty == {"device", "device_date"} | no_probabilities


def test_requests_carry_the_key_of_their_run(runs: Path) -> None:
    frame, requests = sim.load(runs), sim.load_requests(runs)
    assert list(requests.columns) == [*RUN_KEY, *REQUEST_DTYPES]
    assert len(requests) == 6 * 8 + 3
    means = requests.groupby("folder")["tpot_ns"].mean() / 1e6
    assert dict(means) == pytest.approx(dict(zip(frame["folder"], frame["tpot_ms_mean"], strict=True)))
    some = sim.load_requests(runs, frame[frame["policy"] == "random"])
    assert set(some["policy"]) == {"random"}


def test_settings_that_differ_are_columns(tmp_path: Path) -> None:
    given = config(topical(tmp_path / "trace", n=3), 4 * SIZE)
    slow = {**given.hardware, "link": {**given.hardware["link"], "h2d_gb_per_s": 0.5}}
    for one in (given, replace(given, hardware=slow), replace(given, policy={"name": "lru", "scope": "layer"})):
        run_config(one, tmp_path / "out")
    frame = sim.load(tmp_path / "out")
    assert list(frame.columns[len(COLUMNS) :]) == ["hardware.link.h2d_gb_per_s", "policy.scope"]
    assert list(frame["policy_label"]) == ["lru", "lru", "lru (scope=layer)"]
    assert sorted(frame["hardware.link.h2d_gb_per_s"]) == [0.5, 1, 1]
    assert list(frame["policy.scope"]) == ["global", "global", "layer"]
    assert len(set(frame["hardware_sha"])) == 2


def test_parquet_gives_the_same_frame_back(runs: Path, tmp_path: Path) -> None:
    frame = sim.load(runs)
    sim.save(frame, tmp_path / "runs.parquet")
    again = sim.load(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(frame, again)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]
    for place, why in (("nowhere", "No such file or directory"), ("runs.parquet", "Not a directory")):
        with pytest.raises(UserError, match=rf"/{place}/here: cannot be written \({why}\)"):
            sim.save(frame, tmp_path / place / "here")


def test_a_run_of_a_device_is_marked(runs: Path, tmp_path: Path) -> None:
    one = next(runs.glob("lru-*"))
    here = shutil.copytree(one, tmp_path / "out" / "real-lru")
    edit(here, lambda it: it["provenance"].update(device={"name": "H200", "date": "2026-01-01"}))
    frame = sim.load(tmp_path / "out")
    assert list(frame["source"]) == ["device"]
    assert list(frame["device"]) == ["H200"]
    for load, name in ((sim.load_requests, "requests"), (sim.load_layers, "layers")):
        parquet, before = here / f"{name}.parquet", load(tmp_path / "out")
        pd.read_parquet(parquet).to_csv(parquet.with_suffix(".csv"), index=False)
        parquet.unlink()
        pd.testing.assert_frame_equal(load(tmp_path / "out"), before)
        parquet.with_suffix(".csv").unlink()
        with pytest.raises(UserError, match=rf"has no {name}.parquet, {name}.csv"):
            load(tmp_path / "out")


def test_what_is_no_result_is_an_error(runs: Path, tmp_path: Path) -> None:
    def error(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            sim.load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in error(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    assert "result.json" in error(tmp_path / "other")
    assert "Parquet" in error(tmp_path / "other" / "notes.txt")

    out = tmp_path / "out"
    shutil.copytree(runs, out)
    one = sorted(path for path in out.iterdir() if (path / "result.json").exists())[2]
    edit(one, lambda it: it.pop("latency_ms"))
    assert pd.isna(sim.load(out)["tpot_ms_mean"]).sum() == 1
    edit(one, lambda it: it["stall_ms_per_token"].update(queueing=None))
    assert pd.isna(sim.load(out)["stall_ms_per_token"]).sum() == 1, "no sum of what is not known"
    shutil.copytree(one, one / "copy")
    assert len(sim.load(out)) == 7, "what lies inside a run is no run"

    frame = sim.load(runs)
    plain = tmp_path / "plain.parquet"
    frame.to_parquet(plain)
    assert "schema none" in error(plain)


def test_the_page_shows_the_schema() -> None:
    assert schema_table() in (ROOT / "docs" / "results.md").read_text()


def test_leaves_are_dotted() -> None:
    group = {"name": "x", "source": "s", "a": {"b": 1, "sources": {"c": "d"}}, "e": [1, 2]}
    assert dict(leaves(group, "g")) == {"g.a.b": 1, "g.a.sources.c": "d", "g.e": "[1, 2]"}
