"""Sweeps: lists inside a job, failures beside successes, what a killed one leaves, the same bytes on any launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from policies import registry
from sim.cli import main
from sim.inputs import Inputs
from sim.run import run
from sim.sweep.axes import cells
from sim.sweep.plan import make_plan
from sim.sweep.watch import progress_line
from traces.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
GRID = ("policy=lru,fmoe", "budget=[2GB,4GB]", "seed=0,1", "limit=1", "bounds=false")
FAST = [pytest.param((), id="basic"), pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), id="joblib")]
SLOW = [
    pytest.param(("hydra/launcher=submitit_local",), id="submitit"),
    pytest.param(("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"), id="ray"),
]
for param in SLOW:  # a stage of their own: bash .ci/launchers
    skip = pytest.mark.skipif(not os.environ.get("LAUNCHERS"), reason="bash .ci/launchers runs it")
    SLOW[SLOW.index(param)] = pytest.param(*param.values, id=str(param.id), marks=skip)
LAUNCHERS = [*FAST, *SLOW]


def sweep(out: Path, *words: str) -> int:
    return main(["run", "-m", *words, f"out={out}", "format=json"])


def content(out: Path) -> dict[str, bytes]:
    """Every file of every cell."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("[a-z]*/*"))}


def begin(out: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sim", "run", "-m", *words, f"out={out}", "format=json"]
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "said").open("w") as said:
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=said)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert sweep(out, *GRID) == 0
    return out


def test_a_list_is_several_cells_with_the_bytes_of_each_alone(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace is opened and its demand read once, and no policy sees that another was there before."""
    for policy in ("lru", "fmoe"):
        for budget in ("4GB", "2GB"):
            run(f"policy={policy}", f"budget={budget}", "limit=1", "bounds=false", out=tmp_path)
    alone, together = content(tmp_path), content(undisturbed)
    assert len({name.partition("/")[0] for name in together}) == 8
    assert alone.items() <= together.items()
    capsys.readouterr()
    assert sweep(tmp_path, "policy=lru", "budget=[4GB,2GB]", "seed=[0,1]", "limit=1", "bounds=false") == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    order = [(d["memory"]["budget_bytes"], d["config"]["seed"]) for d in documents]
    assert order == [(4_000_000_000, 0), (4_000_000_000, 1), (2_000_000_000, 0), (2_000_000_000, 1)]


def test_the_trace_of_a_job_is_opened_and_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sim.inputs
    from sim.demand import DemandReader

    opened, read = [], []
    real_open, real_rows = sim.inputs.open_trace, DemandReader.rows
    monkeypatch.setattr(sim.inputs, "open_trace", lambda path: opened.append(path) or real_open(path))
    monkeypatch.setattr(DemandReader, "rows", lambda *args: read.append(args[1:]) or real_rows(*args))
    assert sweep(tmp_path / "a", "policy=lru", "budget=[2GB,4GB,8GB]", "seed=[0,1]", "limit=2") == 0
    assert len(opened) == 1
    assert len(read) == len(set(read)) == 2  # two requests, the same ones under the other seed
    monkeypatch.setattr(sim.inputs, "KEPT_CHOICES", 0)
    assert sweep(tmp_path / "b", "policy=lru", "budget=[2GB,4GB,8GB]", "seed=[0,1]", "limit=2") == 0
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


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_that_was_killed_goes_on(launcher: tuple[str, ...], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = begin(out, [*GRID, *launcher])
    deadline = time.monotonic() + 120
    while len(list(out.glob("[a-z]*/result.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    finished = {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("[a-z]*/*")}
    assert process.returncode == -signal.SIGKILL
    assert 3 <= len(list(out.glob("[a-z]*/result.json"))) <= 8
    again = begin(out, [*GRID, *launcher])
    assert again.wait(timeout=300) == 0, (tmp_path / "said").read_text()
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in finished} == finished
    assert content(out) == content(undisturbed)
    if "hydra/launcher=joblib" in launcher:
        assert workers
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers outlive the sweep"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failures_are_listed_at_the_end_and_stop_nothing(
    launcher: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("policy=lru,static", "budget=[12MB,2GB]", "limit=1", "bounds=false")
    assert sweep(tmp_path, *words, *launcher) == 2
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    assert printed.err.count("error: budget=12000000: too small") == 2
    assert "  python -m sim run policy=static limit=1 bounds=False budget=12MB" in printed.err.replace("false", "False")
    assert "4 cells in" in printed.err.splitlines()[-1]
    assert "2 run, 0 read, 2 failed" in printed.err.splitlines()[-1]


def test_a_policys_own_mistake_stops_no_other_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("slip")

    monkeypatch.setattr(registry.find("static"), "on_gate", broken)
    assert sweep(tmp_path, "policy=static,lru", "limit=1", "bounds=false") == 2
    printed = capsys.readouterr()
    assert [json.loads(line)["config"]["policy"]["name"] for line in printed.out.splitlines()] == ["lru"]
    assert "error: KeyError: 'slip' (test_sweep.py, line" in printed.err


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (["policy=lru,fifo", "budget=[2GB,4GB,8GB]", "seed=0,1"], 12),
        (["policy=lru", "budget=[2GB,4GB],[8GB]"], 3),
        (["policy=glob(lru*)"], 2),
        (["experiment=first_comparison"], 27),
        (["experiment=first_comparison", "policy=lru", "budget=1GB,2GB"], 2),
        (["experiment=tune_gate_ahead", "hydra.sweeper.n_trials=4"], 12),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_plan_knows_how_many_cells_there_will_be(words: list[str], n: int) -> None:
    assert make_plan(words).cells == n


def test_lists_are_for_axes() -> None:
    assert [c["seed"] for c in cells({"seed": [0, 1], "budget": "8GB"})] == [0, 1]
    with pytest.raises(UserError, match=r"bounds=\[True\]: a list; allowed for: budget, "):
        list(cells({"bounds": [True]}))
    with pytest.raises(UserError, match=r"seed=\[\]: at least one"):
        list(cells({"seed": []}))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "budget=[2GB,4GB]"], "budget=[2GB,4GB]: several values; add -m to run each"),
        (["run", "-m", "budget=[2GB,8XB,]"], "not understood"),
        (["run", "-m", "seed=[0,x]"], "seed=x: a whole number"),
        (["run", "-m", "hydra/launcher=nosuch"], "hydra/launcher=nosuch: unknown; allowed: basic, joblib, ray"),
        (["run", "-m", "hydra/sweeper=nosuch"], "hydra/sweeper=nosuch: unknown; allowed: basic, optuna"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_a_sweep(words: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*words, f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "extra"),
    [("hydra/launcher=ray", "ray"), ("hydra/launcher=submitit_slurm", "submitit"), ("hydra/sweeper=optuna", "optuna")],
)
def test_what_is_not_installed_says_which_extra(
    word: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sim.sweep.plugins.installed", lambda kind: ["basic"])
    assert main(["run", "-m", word]) == 2
    printed = capsys.readouterr().err
    assert f"{word}: not installed; pip install 'moe-offload-workbench[{extra}]'" in printed
    assert printed.count("\n") == 1


def test_progress_is_one_line() -> None:
    assert progress_line(0, 0, 60, 5.0) == "cells 0 of 60"
    assert progress_line(12, 1, 60, 50.0) == "cells 12 of 60, 1 failed, about 3:20 left"
    assert progress_line(1, 0, 1001, 5.0) == "cells 1 of 1001, about 1:23:20 left"
