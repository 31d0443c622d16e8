"""Perfetto's trace processor reads a timeline, and gives its figures back to the nanosecond."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.cli import main
from sim.experiment.config import load_config
from sim.experiment.run import run
from tests.sim.results.trace_processor import Processor

pytestmark = pytest.mark.ci  # a trace processor is started for each
COMPUTE = ("dense", "expert", "software", "policy")
SLICES = """
    select process.name as run, thread.name as lane, slice.name as name, category, count(*) as n, sum(slice.dur) as ns,
           min(depth) as shallowest, max(depth) as deepest
    from slice join thread_track on slice.track_id = thread_track.id join thread using(utid) join process using(upid)
    group by 1, 2, 3, 4
"""
FIRST = """
    select process.name as run, min(slice.ts) as ts
    from slice join thread_track on slice.track_id = thread_track.id join thread using(utid) join process using(upid)
    where category = 'step' group by 1
"""
COUNTER = """
    select process.name as run, max(value) as most
    from counter join process_counter_track as track on counter.track_id = track.id join process using(upid)
    group by 1
"""
FAULTS = "select name from stats where value > 0 and severity != 'info'"


def adds_up(found: Sequence[Any], document: dict[str, Any]) -> None:
    """The slices of a run give the figures of its result."""
    totals = document["totals"]
    by_part = {part: sum(row.ns for row in found if row.category == part) for part in ("step", *COMPUTE)}
    assert by_part["step"] == totals["wall_ns"]
    assert sum(by_part[part] for part in COMPUTE) == totals["compute_ns"]
    stalls = {row.name.removeprefix("stall: "): row.ns for row in found if row.category == "stall"}
    assert stalls == {cause: ns for cause, ns in totals["stall_ns"].items() if ns}
    for row in found:  # nothing but what a pass consists of lies inside of something
        assert row.shallowest == row.deepest == (row.lane == "GPU stream" and row.category != "step"), row


# out/* names the folder of the bounds that the runs share, too.
def test_a_folder_of_bounds_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("policy=lru", "budget=4GB", "limit=1", "timeline=true", out=tmp_path)
    folders = sorted(map(str, tmp_path.iterdir()))
    assert len(folders) == 2
    out = tmp_path / "all.json"
    capsys.readouterr()
    assert main(["timeline", *folders, f"out={out}"]) == 0
    said = capsys.readouterr().err
    assert f"{folders[0]}: holds no run, left out" in said
    assert "slices of 1 run" in said


@pytest.mark.parametrize(
    "words",
    [
        ("policy=lru", "hardware.software.layer_overhead_us=10", "hardware.software.copy_overhead_us=3"),
        ("policy=lru", "+hardware.software.policy_us.lru.decode=500"),
        ("policy=fmoe", "workload.batch=2", "warmup=1"),
        ("policy=promoe", "chunks=3", "hardware.link.lanes=2"),
        ("policy=fiddler", "hardware.link.lanes=2", "hardware.host.workers=2"),
        ("policy=promoe", "chunks=3", "policy.blocking=true"),
    ],
    ids=" ".join,
)
def test_it_loads_and_adds_up(words: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*words, "budget=4GB", "limit=2", "bounds=false", "timeline=true", out=tmp_path)
    path = result.folder / "timeline.json"
    trace = Processor(path)
    assert [row.name for row in trace.rows(FAULTS)] == []
    found = list(trace.rows(SLICES))
    written = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert sum(row.n for row in found) == len(written)
    adds_up(found, result.document)
    lanes = {row.lane for row in found}
    assert {"GPU stream", "link, host to device"} <= lanes
    assert ("predictor" in lanes) == (words[0] not in ("policy=lru", "policy=fiddler"))
    assert ("experts on the host" in lanes) == (words[0] == "policy=fiddler")
    assert ("CPU, software" in lanes) == (words[0] == "policy=lru")
    assert any(row.category == "policy" for row in found) == ("policy_ns" in result.document["totals"])
    [used] = trace.rows(COUNTER)
    assert 0 < used.most <= 4_000_000_000


def test_requests_that_arrive_are_lanes_with_their_waits(tmp_path: Path) -> None:
    """Each from arrival to last token, and within it its wait, its prompt's passes, its output, and where it lost its
    place: six requests for whose KV cache there is not room at once."""
    words = ("workload=online", "workload.rate=20", "workload.count=6", "kv=140MB", "budget=4GB", "bounds=false")
    result = run(*words, "timeline=true", out=tmp_path)
    trace = Processor(result.folder / "timeline.json")
    assert [row.name for row in trace.rows(FAULTS)] == []
    found = [row for row in trace.rows(SLICES) if row.lane.startswith("requests")]
    assert {row.lane for row in found} >= {"requests", "requests 2"}, "some are served at a time"
    took: dict[str, int] = {}
    for row in found:
        took[row.category] = took.get(row.category, 0) + row.ns
        assert row.shallowest == row.deepest == (row.category != "request"), row
    served = pd.read_parquet(result.folder / "requests.parquet")
    assert took["request"] == (served["end_ns"] - served["admitted_ns"]).sum()
    assert took["request wait"] == (served["first_pass_ns"] - served["admitted_ns"]).sum() > 0
    assert sum(row.n for row in found if row.category == "request") == 6
    lost = sum(row.n for row in found if row.category == "request preempted")
    assert lost == result.document["serving"]["preemptions"] > 0
    assert took["request prompt"] > 0 < took["request decode"]


def test_a_device_and_the_simulator_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="a device's run needs the hf extra")
    from real.cli import main as real

    common = ["policy=gate_ahead", "model=tiny-moe", "budget=25%", "limit=1", "timeline=true"]
    own = ("routing=sample", "device=cpu", "threads=1", f"out={tmp_path / 'device'}", "format=json")
    assert real(["run", *common, *own]) == 0
    documents = [json.loads(capsys.readouterr().out)]
    simulated = run(*common, "bounds=false", out=tmp_path / "simulated")
    documents.append(simulated.document)
    [measured] = (tmp_path / "device").glob("real-*")
    out = tmp_path / "both.json"
    assert main(["timeline", str(measured), str(simulated.folder), f"out={out}"]) == 0
    trace = Processor(out)
    assert [row.name for row in trace.rows(FAULTS)] == []
    found = list(trace.rows(SLICES))
    assert load_config(measured / "config.yaml").timeline, "so that the same is made again"
    runs = sorted({row.run for row in found})
    assert runs == ["measured on cpu: gate_ahead, 12.6 MB", "simulated: gate_ahead, 12.6 MB"]
    for name, document in zip(runs, documents, strict=True):
        adds_up([row for row in found if row.run == name], document)
    begins = {row.run: row.ts for row in trace.rows(FIRST)}
    assert set(begins.values()) == {0}, "both begin at 0"


def test_the_same_run_twice_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("policy=lru", "budget=4GB", "limit=1", "bounds=false", "timeline=true")
    one, other = (run(*words, f"chunks={n}", out=tmp_path).folder for n in (1, 2))
    copy = Path(shutil.copytree(one, tmp_path / "copied" / one.name))
    out = tmp_path / "made" / "both.json"
    for second, ways in ((other, (one.name, other.name)), (copy, (one, copy))):
        assert main(["timeline", str(one), str(second), f"out={out}"]) == 0
        events = json.loads(out.read_text())["traceEvents"]
        names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
        assert names == [f"simulated: lru, 4 GB ({way})" for way in ways]
        assert {event["pid"] for event in events} == {1, 2}
    assert main(["timeline", str(tmp_path)]) == 2
    assert "has no timeline.json; give its runs, DIR/*" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{no}",), "no such folder"),
        (("{bare}",), "has no timeline.json; run it with timeline=true"),
        (("{broken}",), "not a timeline of this version"),
        (("{old}",), "not a timeline of this version"),
        (("{old}", "{old}"), "the same folder twice"),
        (("out=x.json",), "missing DIR"),
        (("{old}", "out={bare}"), "a file is wanted"),
    ],
)
def test_mistakes(words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {name: tmp_path / name for name in ("no", "bare", "broken", "old")}
    for name in ("bare", "broken", "old"):
        places[name].mkdir()
    (places["broken"] / "timeline.json").write_text('{"traceEvents": [')
    (places["old"] / "timeline.json").write_text('{"traceEvents": []}')
    assert main(["timeline", *(word.format(**places) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json*"))
