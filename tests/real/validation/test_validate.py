"""The device beside the simulator: replays agree exactly, errors are what they say, a grid survives its mistakes."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.markdown import Markdown

from real.cli import main
from real.evaluate.page import _grids
from real.runtime.recorded import run_forced
from real.runtime.runner import DeviceRun
from real.validation import compare as comparing
from real.validation.verdict import markdown, summary, worst_first
from sim.core.accounts import LOOKUPS
from sim.core.log import NEXT_CHUNK, replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.experiment.config import dump_configs
from sim.results.label import label
from sim.results.pictures.measured import measured
from tests.real.validation.cases import config, tiny, words
from traces import open_trace
from traces.synthesize.augment import augment

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("policy", ["lru", "on_demand", "deepspeed", "random"])
@pytest.mark.parametrize("more", [["budget=40%"], ["budget=100%", "chunks=3", "warmup=1", "workload.batch=2"]])
def test_a_replay_of_the_device_counts_what_the_device_counted(policy: str, more: list[str]) -> None:
    cell = make_cell(config(f"policy={policy}", *more))
    row, logs = comparing.compare(cell, tiny()[2])
    assert row["replay"]["agrees"]
    assert row["replay"]["accounts_agree"], row["replay"]["unlike"]
    assert row["replay"]["replayed_digest"] == row["replay"]["device_digest"]
    assert (row["simulated_digest"] == row["replay"]["device_digest"]) <= (not _of(row, "copies"))
    core = make_core(cell, make_policy(cell))
    replay(logs["simulated"], core)
    assert core.digest() == row["simulated_digest"]
    lookups = row["device"]["totals"]["lookups"]
    assert lookups == row["simulated"]["totals"]["lookups"] > 0
    if policy == "lru":  # it predicts nothing, and asks no clock
        assert [row["errors"][f"hit_{name}"]["error"] for name in comparing.HITS] == [None, 0.0, 0.0, 0.0]
        assert 0 < row["errors"]["hit_complete"]["device"] < 1


def test_a_device_that_decided_or_counted_otherwise_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def askew(*given: Any) -> DeviceRun:
        run = run_forced(*given)
        run.outcome.accounts.hits[1][0][LOOKUPS] += 1
        run.core.log.append(NEXT_CHUNK)
        return run

    monkeypatch.setattr(comparing, "run_forced", askew)
    assert main(["validate", *words("policy=lru", "budget=40%", "format=json"), f"out={tmp_path}"]) == 1
    printed = capsys.readouterr()
    row = json.loads(printed.out)["cells"][0]["replay"]
    assert (row["agrees"], row["accounts_agree"], row["unlike"]) == (False, False, ["hits"])
    assert "**differs**" in (tmp_path / "tiny.md").read_text()
    assert printed.err.splitlines()[-1].startswith("error: a replay")


def test_of_several_runs_the_middle_one_is_shown_and_how_far_apart_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    late = iter((30_000_000_000, 0, 90_000_000_000))

    def slower(*given: Any) -> DeviceRun:
        run, more = run_forced(*given), next(late)
        run.outcome.accounts.end_ns += more
        for timing in run.outcome.timings.requests.values():
            timing.end += more
        return run

    monkeypatch.setattr(comparing, "run_forced", slower)
    row, _ = comparing.compare(make_cell(config("policy=lru", "budget=40%")), tiny()[2], repeat=3)
    low, high = row["spread"]["tpot_ms"]
    assert low < row["errors"]["tpot_ms"]["device"] < high
    assert high - low > 10_000


def test_errors_are_the_device_less_the_simulator_and_times_are_shares_of_the_measured() -> None:
    def side(ttft: float | None, tpot: float, stall: float, hit: float) -> dict[str, Any]:
        spreads = {"ttft": None if ttft is None else {"mean": ttft}, "tpot": {"mean": tpot}}
        hits = dict.fromkeys(("recall", "resident", "complete", "bytes"), hit)
        return {"latency_ms": spreads, "stall_ms_per_token": {"a": stall, "b": 1.0}, "hit_rate": hits}

    found = comparing.errors(side(None, 8.0, 3.0, 0.5), side(2.0, 10.0, 1.0, 0.75))
    assert {name: it["error"] for name, it in found.items()} == {
        "ttft_ms": None,
        "tpot_ms": -0.25,
        "stall_ms_per_token": 0.5,
        **dict.fromkeys(("hit_recall", "hit_resident", "hit_complete", "hit_bytes"), -0.25),
    }


def test_the_worst_row_comes_first_and_errors_are_summed_up() -> None:
    def row(tpot: float | None, ttft: float | None) -> dict[str, Any]:
        known = {"tpot_ms": tpot, "ttft_ms": ttft}
        names = ("tpot_ms", "ttft_ms", "stall_ms_per_token", "hit_recall", "hit_resident", "hit_complete", "hit_bytes")
        return {"errors": {name: {"error": known.get(name)} for name in names}}

    rows = [row(0.1, 0.9), row(-0.4, 0.0), row(None, 0.2), row(None, None)]
    assert worst_first(rows) == [rows[1], rows[2], rows[0], rows[3]]
    found = summary(rows)
    assert found["tpot_ms"] == {"median": 0.25, "worst": 0.4, "rows": 2}
    assert found["hit_recall"] is None


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A grid of which one budget cannot be run: (the folder of its results, the exit status)."""
    out = tmp_path_factory.mktemp("grid") / "results"
    given = words("policy=lru,lfu", "budget=40%,7", "model.dtype=float32", "logs=true")
    return out, main(["validate", *given, f"out={out}"])


def test_one_failing_cell_stops_no_other_and_is_listed(grid: tuple[Path, int]) -> None:
    out, status = grid
    found = json.loads((out / "tiny.json").read_text())
    assert status == 2
    assert sorted((row["policy"]["name"], row["budget"]) for row in found["cells"]) == [("lfu", "40%"), ("lru", "40%")]
    assert [(it["policy"], it["budget"]) for it in found["failed"]] == [("lru", "7"), ("lfu", "7")]
    assert all("allowed: at least" in it["error"] for it in found["failed"])
    assert "Not run:" in (out / "tiny.md").read_text()


def test_the_files_are_whole_and_say_where_they_are_from(grid: tuple[Path, int]) -> None:
    out, _ = grid
    assert {path.name for path in out.iterdir()} == {"tiny.json", "tiny.md", "tiny.png", "logs"}
    assert (out / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "tiny.png").read_bytes()[25] == 3, "colours of a palette: a third of the bytes"
    found = json.loads((out / "tiny.json").read_text())
    source = found["provenance"]
    for key in ("date", "device", "hardware", "trace", "model", "code", "measured_requests"):
        assert source[key], key
    assert source["hardware"]["provenance"] == "published"
    assert source["hardware"]["of_this_device"] is False
    assert source["hardware"]["overheads"].startswith("none of the runtime's")
    assert len(source["trace"]["sha256"]) == 64
    assert all(len(row["code"]) == 16 and row["replay"]["agrees"] for row in found["cells"])
    assert markdown(found) in (out / "tiny.md").read_text()
    assert str(tiny()[0].parent) not in (out / "tiny.json").read_text()  # no machine's path


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_table_and_no_markdown(grid: tuple[Path, int], width: int) -> None:
    found = json.loads((grid[0] / "tiny.json").read_text())
    console = Console(file=io.StringIO(), width=width)
    console.print(Markdown(markdown(found, width)))
    lines = [line.strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    assert not any("|" in line or "**" in line for line in lines)
    for row in found["cells"]:  # each on a line of its own, with its figures
        (line,) = [x for x in lines if x.startswith(f"{label(row['policy'])} ") and f" {row['budget']} " in x]
        assert line.split()[-1] == "agrees"
        assert f"{row['errors']['hit_complete']['device']:.3f}" in line
    assert sum(line.startswith("• l") and " at 7: " in line for line in lines) == len(found["failed"]) > 0
    assert any("TTFT error" in line for line in lines) == (width == 120)


def test_the_logs_that_were_kept_are_those_of_the_row(
    grid: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = grid
    folder = out / "logs" / "tiny-lru-40"
    row = next(it for it in json.loads((out / "tiny.json").read_text())["cells"] if it["policy"]["name"] == "lru")
    both = [f"first={folder}/device.npy", f"second={folder}/simulated.npy"]
    main(["diff", *both, "experts=8", "chunks=1", "format=json"])
    shown = json.loads(capsys.readouterr().out)
    assert [it["first"] for it in shown] == [it["device"] for it in row["first_differences"]]


def test_beside_a_file_only_the_machine_and_the_trace_may_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text("policy: {name: lru}\n")
    assert main(["validate", "--config", str(tmp_path / "one.yaml")]) == 2
    assert "model is missing" in capsys.readouterr().err
    (tmp_path / "one.yaml").write_text(dump_configs([config("policy=lru")]))
    assert main(["validate", "--config", str(tmp_path / "one.yaml"), "budget=3GB"]) == 2
    assert "budget=3GB: not beside --config" in capsys.readouterr().err


def test_what_is_modelled_is_said_of_the_cells_that_rest_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = augment(open_trace(tiny()[1]), tmp_path / "trace", ["gate_ahead", "embedding"], (0.9,), seed=0)
    given = [f"trace={trace}", *words("policy=gate_ahead,lru", "budget=40%")[1:], f"out={tmp_path}"]
    assert main(["validate", *given]) == 0
    found = json.loads((tmp_path / "tiny.json").read_text())
    rows = {row["policy"]["name"]: row for row in found["cells"]}
    assert rows["gate_ahead"]["modelled"] == {"gate_ahead": {"from": "expert_ids", "recall": [0.9], "seed": 0}}
    assert "modelled" not in rows["lru"]
    assert set(found["provenance"]["trace"]["modelled"]) == {"gate_ahead", "embedding"}
    said = "odelled, not recorded: gate_ahead (recall 0.9) of gate_ahead"
    assert f"- M{said}\n" in (tmp_path / "tiny.md").read_text()
    assert said in " ".join(capsys.readouterr().out.split())
    assert f"m{said}" in measured.sheet(found).about
    cells = [row | {"expected": None} for row in found["cells"]]
    page = "\n".join(_grids(SimpleNamespace(documents={"cells": found | {"cells": cells}})))  # type: ignore[arg-type]
    assert f"\nM{said}." in page
    routed = markdown(found | {"provenance": _with_modelled_routing(found["provenance"])})
    assert "Routing: tiny (modelled), synthetic" in routed


def _with_modelled_routing(source: dict[str, Any]) -> dict[str, Any]:
    return source | {"trace": source["trace"] | {"modelled": {"expert_ids": {"figures": "default"}}}}


def _of(row: dict[str, Any], of: str) -> list[Any]:
    return [it for it in row["first_differences"] if it["of"] == of]
