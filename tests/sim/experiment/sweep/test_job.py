"""Sweeps: lists inside a job, failures beside successes, what a killed one leaves, the same bytes on any launcher."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import sim
from policies import registry
from sim.cli import main
from sim.experiment.cell import Inputs
from sim.experiment.run import run
from sim.experiment.sweep.job import Job, Told, heard, tally
from tests.sim.golden_traces import write_traces

ROOT = Path(__file__).resolve().parents[4]
SHORT = ("trace=eight", "hardware=rtx_4090", "limit=1", "bounds=false")
GRID = ("policy=lru,fmoe", "budget=[7MB,4MB]", "seed=[0,1]", *SHORT)
SIXTY = ("policy=lru,lfu,gate_ahead,promoe,fmoe", "budget=[4MB,6MB,8MB,10MB]", "seed=0,1,2", *SHORT)
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
FAST = [pytest.param((), id="basic"), pytest.param(JOBLIB, id="joblib", marks=pytest.mark.ci)]
STAGE = pytest.mark.skipif(not os.environ.get("LAUNCHERS"), reason="a stage of its own: bash .ci/launchers")
SLOW = [
    pytest.param(("hydra/launcher=submitit_local",), id="submitit", marks=STAGE),
    pytest.param(("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"), id="ray", marks=STAGE),
]
LAUNCHERS = [*FAST, *SLOW]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``trace=eight`` is: small, so that what a sweep does itself is what takes time."""
    folder = tmp_path_factory.mktemp("traces")
    write_traces(folder)
    return folder


@pytest.fixture(autouse=True)
def beside(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(traces)


def sweep(out: Path, *words: str) -> int:
    return main(["run", "-m", *words, f"out={out}", "format=json"])


def content(out: Path) -> dict[str, bytes]:
    """Every file of every cell."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("[a-z]*/*"))}


def read(folder: Path) -> int:
    """How many cells the sweep whose stderr is there did not run, but found."""
    found = re.search(r"\d+ run, (\d+) read; ", (folder / "said").read_text())
    assert found
    return int(found[1])


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def parquet(out: Path, folder: Path) -> bytes:
    """The frame of the runs, as it is saved."""
    sim.save(sim.load(out), folder / "runs.parquet")
    return (folder / "runs.parquet").read_bytes()


def begin(out: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sim", "run", "-m", *words, f"out={out}", "format=json"]
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "said").open("w") as said:
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=said)


def wait_for_cells(out: Path, n: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("[a-z]*/result.json"))) < n and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(traces)
        assert sweep(out, *GRID) == 0
    return out


def test_a_list_is_several_cells_with_the_bytes_of_each_alone(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace is opened and its demand read once, and no policy sees that another was there before."""
    for policy in ("lru", "fmoe"):
        for budget in ("4MB", "7MB"):
            run(f"policy={policy}", f"budget={budget}", *SHORT, out=tmp_path)
    alone, together = content(tmp_path), content(undisturbed)
    cells = {name.partition("/")[0] for name in together if not name.startswith("learned-")}
    assert len(cells) == 8
    assert alone.items() <= together.items()
    capsys.readouterr()
    assert sweep(tmp_path, "policy=lru", *GRID[1:]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    order = [(d["memory"]["budget_bytes"], d["config"]["seed"]) for d in documents]
    assert order == [(7_000_000, 0), (7_000_000, 1), (4_000_000, 0), (4_000_000, 1)]


def test_the_trace_of_a_job_is_opened_and_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sim.experiment.inputs
    from sim.workload.passes import DemandReader

    opened, read = [], []
    real_open, real_rows = sim.experiment.inputs.open_trace, DemandReader.rows
    monkeypatch.setattr(sim.experiment.inputs, "open_trace", lambda path: opened.append(path) or real_open(path))
    monkeypatch.setattr(DemandReader, "rows", lambda *args: read.append(args[1:]) or real_rows(*args))
    words = ("policy=lru", "budget=[4MB,6MB,8MB]", "seed=[0,1]", "trace=eight", "limit=2")
    assert sweep(tmp_path / "a", *words) == 0
    assert len(opened) == 1
    assert len(read) == len(set(read)) == 2  # two requests, the same ones under the other seed
    monkeypatch.setattr(sim.experiment.inputs, "KEPT_CHOICES", 0)
    assert sweep(tmp_path / "b", *words) == 0
    assert len(read) > 6, "a large trace is not kept in memory"
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_without_a_sweep_each_replay_reads_the_trace(tmp_path: Path) -> None:
    inputs = Inputs()
    folder = ROOT / "traces" / "sample"
    trace = inputs.trace(folder)
    assert inputs.trace(folder) is not trace
    assert next(iter(inputs.passes(trace, 1, (0,)))) is not next(iter(inputs.passes(trace, 1, (0,))))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_any_launcher_gives_the_same_bytes(
    launcher: tuple[str, ...], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path / "out", *GRID, *launcher) == 0
    here = capsys.readouterr().out
    assert content(tmp_path / "out") == content(undisturbed)
    assert sweep(undisturbed, *GRID) == 0
    printed = capsys.readouterr()
    assert printed.out == here, "stdout is in the order of the grid"
    assert "0 run, 8 read" in printed.err


@pytest.mark.parametrize(("grid", "moments"), [(GRID, (3,)), pytest.param(SIXTY, (7, 23, 41), marks=STAGE)], ids=len)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_that_was_killed_goes_on(
    launcher: tuple[str, ...], grid: tuple[str, ...], moments: tuple[int, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """No finished cell is touched, no worker outlives it, and the frame is that of an undisturbed sweep."""
    out, seen = tmp_path / "out", dict[Path, tuple[int, int]]()
    for cells in moments:
        process = begin(out, [*grid, *launcher])
        wait_for_cells(out, cells)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert {p: stamp(p) for p in seen} == seen
        seen = {p: stamp(p) for p in out.glob("[a-z]*/*")}
        assert cells <= len(list(out.glob("[a-z]*/result.json")))
    assert begin(out, [*grid, *launcher]).wait(timeout=300) == 0, (tmp_path / "said").read_text()
    assert {p: stamp(p) for p in seen} == seen
    assert read(tmp_path) >= sum(path.name == "result.json" for path in seen)
    whole = undisturbed if grid == GRID else tmp_path / "whole"
    assert grid == GRID or sweep(whole, *grid) == 0
    assert content(out) == content(whole)
    assert parquet(out, tmp_path) == parquet(whole, tmp_path)
    if "hydra/launcher=joblib" in launcher:
        assert workers
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers outlive the sweep"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failures_are_listed_at_the_end_and_stop_nothing(
    launcher: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("policy=lru,static", "budget=[100KB,7MB]", *SHORT)
    assert sweep(tmp_path, *words, *launcher) == 2
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    assert printed.err.count("error: budget=100000: too small") == 2
    again = "  python -m sim run policy=static trace=eight hardware=rtx_4090 limit=1 bounds=False budget=100KB"
    assert again in printed.err.replace("false", "False")
    assert "4 cells in" in printed.err.splitlines()[-1]
    assert "2 run, 0 read, 2 failed" in printed.err.splitlines()[-1]


def test_an_empty_value_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "policy=lru", "budget=['',7MB]", *SHORT) == 2
    printed = capsys.readouterr().err
    assert "error: budget='': not a positive size" in printed
    assert "1 run, 0 read, 1 failed" in printed


def test_the_command_of_a_failed_cell_runs_it_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pasted into a shell; a profile is named by its file, not by what Hydra calls it."""
    trace, hardware = tmp_path / "a trace; $HOME", tmp_path / "here.yaml"
    shutil.copytree("eight", trace)
    shutil.copy(ROOT / "conf" / "hardware" / "h100.yaml", hardware)
    words = [f"trace={trace}", f"hardware={hardware}", "policy=lru", "budget=[100KB,7MB]", "limit=1", "bounds=false"]
    assert sweep(tmp_path / "an out", *words) == 2
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("  python -m sim run "))
    pasted = shlex.split(line)[4:]
    assert f"hardware={hardware}" in pasted
    pasted.insert(0, "run")
    assert main(pasted) == 2
    assert capsys.readouterr().err.startswith("error: budget=100000: too small for policy=lru; allowed: at least ")
    assert main([*pasted, "budget=7MB"]) == 0
    assert f"read from {tmp_path / 'an out'}" in capsys.readouterr().err


def test_the_tally_is_what_was_heard(tmp_path: Path) -> None:
    job = Job("out", str(tmp_path), 0)
    for number, state in enumerate(("run", "failed", "read", "failed")):
        job._tell(Told(number, 0, state, []))
    assert [told.state for told in heard(tmp_path)] == ["run", "failed", "read", "failed"]
    assert tally(tmp_path) == (4, 2)


def test_another_sweep_may_end_meanwhile(tmp_path: Path) -> None:
    (tmp_path / ".multirun").mkdir()
    gone = tmp_path / ".multirun" / ".told.0123abcd.partial"
    gone.symlink_to("nowhere")  # listed, and no longer there when it is looked at
    assert sweep(tmp_path, "policy=lru", "budget=7MB", *SHORT) == 0


def test_an_interrupted_sweep_says_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children would ignore it
    process = begin(out, ["policy=lru,fmoe", "budget=[100KB,4MB,6MB,8MB]", "seed=[0,1,2,3,4,5,6,7,8,9]", *SHORT])
    signal.signal(signal.SIGINT, before)
    wait_for_cells(out, 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = (tmp_path / "said").read_text().splitlines()
    assert "error: the sweep was broken off: interrupted" in said
    assert said[-2].startswith(f"80 cells in {out}: ")
    assert said[-1] == "the same command reads what is there, and runs the rest"
    assert not list((out / ".multirun").glob(".told*"))


def test_rows_of_other_settings_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model.dtype=bfloat16,fp8", "hardware.link.h2d_gb_per_s=20,30", "budget=2GB", *SHORT[2:])
    assert main(["run", "-m", *words, f"out={tmp_path}"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lru ")]
    expected = [(dtype, f"h2d_gb_per_s={rate})") for dtype in ("bfloat16", "fp8") for rate in (20, 30)]
    assert len(rows) == 4
    assert all(dtype in row and rate in row for row, (dtype, rate) in zip(rows, expected, strict=True))


def test_a_policys_own_mistake_stops_no_other_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("slip")

    monkeypatch.setattr(registry.find("static"), "on_gate", broken)
    assert sweep(tmp_path, "policy=static,lru", "budget=7MB", *SHORT) == 2
    printed = capsys.readouterr()
    assert [json.loads(line)["config"]["policy"]["name"] for line in printed.out.splitlines()] == ["lru"]
    assert "error: KeyError: 'slip' (test_job.py, line" in printed.err
