"""One verb for anybody's GPU: it keeps its time, names what fails, goes on where it was, and writes whole files."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from real.cli import main
from real.measure import beside, machine
from real.measure.bench import TINY
from real.measure.clock import Clock, OutOfTimeError
from real.measure.record import Record, claim
from real.measure.steps import STEPS, Step, run
from traces.kit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
NAMES = [step.name for step in STEPS]


def bench(folder: Path) -> Any:
    return SimpleNamespace(folder=folder, record=Record(folder, {"device": "a"}, NAMES), empty_cache=lambda: None)


def step(name: str, work: Callable[[], str] = lambda: "", **more: Any) -> Step:
    return Step(name, lambda _: work(), more.pop("least_s", 0), more.pop("most_s", 60), **more)


def raising(error: BaseException) -> Callable[[], str]:
    def work() -> str:
        raise error

    return work


def test_a_failed_step_is_named_and_the_next_begins(tmp_path: Path) -> None:
    plan = [
        step("copies", raising(UserError("no\nlink"))),
        step("layers", raising(ZeroDivisionError("a bug"))),
        step("store", lambda: "12 GB"),
    ]
    found = bench(tmp_path)
    assert run(plan, found, Clock(60)) == {"copies": "failed", "layers": "failed", "store": "done"}
    written = json.loads((tmp_path / "measure.json").read_text())["steps"]
    assert (written["copies"]["said"], written["layers"]["said"]) == ("no link", "ZeroDivisionError: a bug")
    assert written["store"]["said"] == "12 GB"
    assert written["cells"]["state"] == "outstanding"
    assert "failed" in found.record.table()


# Giving its memory back raised once more, and the step that had failed was in no record.
def test_a_device_that_has_given_up_is_named_in_every_step(tmp_path: Path) -> None:
    gone = RuntimeError("CUDA error: an illegal memory access was encountered")
    found = bench(tmp_path)
    found.empty_cache = raising(gone)
    plan = [step(name, raising(gone)) for name in ("copies", "layers")]
    assert run(plan, found, Clock(60)) == {"copies": "failed", "layers": "failed"}
    written = json.loads((tmp_path / "measure.json").read_text())["steps"]
    assert "illegal memory access" in written["copies"]["said"]


def test_what_needs_a_failed_step_waits_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    calls: list[str] = []
    plan = [
        step("store", raising(UserError("no room"))),
        step("cells", lambda: calls.append("cells") or "", needs=("store",)),
        step("link", lambda: calls.append("link") or ""),
    ]
    assert run(plan, bench(tmp_path), Clock(60))["cells"] == "outstanding"
    plan[0] = step("store")
    assert set(run(plan, bench(tmp_path), Clock(60)).values()) == {"done"}
    assert calls == ["link", "cells"]


# "remove the file, and measure this step again" it is told of a damaged one: the record alone kept it from that.
def test_a_step_whose_file_is_gone_is_done_again(tmp_path: Path) -> None:
    calls = []

    def work() -> str:
        calls.append("copies")
        (tmp_path / "copies.json").touch()
        return ""

    plan = [step("copies", work, leaves=lambda _: ("copies.json",))]
    for _ in range(2):
        assert run(plan, bench(tmp_path), Clock(60)) == {"copies": "done"}
    assert calls == ["copies"]
    (tmp_path / "copies.json").unlink()
    assert run(plan, bench(tmp_path), Clock(60)) == {"copies": "done"}
    assert calls == ["copies", "copies"]


# A wrong name of an API is an AttributeError: it ended the checks, and nothing was said of the others.
def test_every_check_is_heard_whatever_one_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [("one", raising(AttributeError("no such name"))), ("two", lambda: "as it should")]
    monkeypatch.setattr(machine, "_checks", lambda _: checks)
    written: dict[str, Any] = {}
    with pytest.raises(UserError, match=r"not fit: one: AttributeError: no such name; allowed: only="):
        machine.preflight(SimpleNamespace(write=written.__setitem__))  # type: ignore[arg-type]
    assert [(it["name"], it["ok"]) for it in written["preflight"]] == [("one", False), ("two", True)]


# The row of accelerate was left out on a machine that has more memory than it shows, though it had been told so.
def test_peers_are_told_of_the_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def told(*_: Any, host_memory: int, **__: Any) -> dict[str, Any]:
        given.append(host_memory)
        return {"rows": []}

    monkeypatch.setattr(beside, "beside", told)
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
    fake: Any = SimpleNamespace(size=TINY, host_memory=110 * 10**9, model=nothing, config=nothing, write=nothing)
    beside.peers(fake)
    assert given == [110 * 10**9]


def test_a_preflight_that_fails_ends_it(tmp_path: Path) -> None:
    plan = [step("preflight", raising(UserError("torch 1.0"))), step("copies", raising(AssertionError("began")))]
    assert run(plan, bench(tmp_path), Clock(60)) == {"preflight": "failed", "copies": "outstanding"}


def test_a_step_ends_with_its_time_and_what_has_too_little_is_not_begun(tmp_path: Path) -> None:
    def endless() -> str:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # what mends exceptions is not to mend this one
                continue

    plan = [step("copies", endless, most_s=0.2), step("layers", least_s=3600)]
    began = time.monotonic()
    assert run(plan, bench(tmp_path), Clock(60)) == {"copies": "stopped", "layers": "outstanding"}
    assert time.monotonic() - began < 20


def test_no_step_is_given_more_than_is_left(tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError), Clock(60).limit(0.05, lambda: None):
        time.sleep(30)
    clock = Clock(0.3)
    assert run([step("copies", lambda: time.sleep(30) or "")], bench(tmp_path), clock) == {"copies": "stopped"}


# The alarm rang while the block's end was put away: the guard was left, and ended the process in the next step.
def test_an_alarm_at_the_very_end_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads, real = signal.getsignal(signal.SIGALRM), threading.active_count(), signal.setitimer

    def just_before(which: int, seconds: float) -> None:
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        real(which, seconds)

    monkeypatch.setattr(signal, "setitimer", just_before)
    with Clock(60).limit(60, lambda: None):
        pass
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGALRM) == before
    for _ in range(100):
        if threading.active_count() == threads:
            break
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_a_call_that_never_comes_back_ends_the_process_with_what_there_is(tmp_path: Path) -> None:
    """A driver that hangs: no signal reaches the interpreter."""
    code = """
        import signal, sys, time
        from real.measure import clock
        clock.GRACE_S = 0.2
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        with clock.Clock(60).limit(0.1, lambda: print("last words")):
            time.sleep(60)
        print("never")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "last words\n")


def test_a_folder_is_of_one_machine(tmp_path: Path) -> None:
    run([step("copies")], bench(tmp_path), Clock(60))
    Record(tmp_path, {"device": "a", "host": "with more memory than before"}, NAMES)
    with pytest.raises(UserError, match=r"measured with device=a, and this is b; allowed: a new folder"):
        Record(tmp_path, {"device": "b"}, NAMES)
    (tmp_path / "measure.json").write_text("{")
    with pytest.raises(UserError, match="not a record"):
        Record(tmp_path, {"device": "a"}, NAMES)


def test_a_folder_is_measured_into_by_one_process_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["measure", f"out={tmp_path}", "rehearse=true", "device=cpu", "only=profile"]
    with claim(tmp_path):
        assert main(words) == 2
        assert "another python -m real measure is at work in it" in capsys.readouterr().err
    assert main(words) == 1, "profile needs the store: outstanding"


def test_the_versions_that_are_wanted_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["hf"], f"python{project['requires-python']}"]
    bounds = {re.split(r"[<>=]", it)[0].replace("pyyaml", "yaml"): re.split(r"(?=[<>])|,", it) for it in stated}
    for how, versions in ((">=", machine.NEEDS), ("<", machine.BELOW)):
        for name, version in versions.items():
            assert f"{how}{version}" in bounds[name], name


def test_an_old_version_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" in machine.versions()
    monkeypatch.setattr("transformers.__version__", "5.9.1")
    with pytest.raises(UserError, match=r"transformers 5\.9\.1; allowed: 5\.17 or newer, below 6"):
        machine.versions()


def test_the_store_is_filled_again_only_for_a_step_that_wants_it(tmp_path: Path) -> None:
    calls: list[str] = []
    plan = [
        step("store", lambda: calls.append("store") or ""),
        step("cells", lambda: calls.append("cells") or "", needs=("store",)),
        step("link", lambda: calls.append("link") or ""),
    ]
    run(plan[:2], bench(tmp_path), Clock(60))
    run(plan, bench(tmp_path), Clock(60))
    assert calls == ["store", "cells", "link"]
    found = bench(tmp_path)
    found.record.states["cells"].state = "stopped"
    run(plan, found, Clock(60))
    assert calls == ["store", "cells", "link", "store", "cells"]


def test_what_is_off_by_its_speed_alone_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, found = raising(UserError("20 GB/s")), SimpleNamespace(write=lambda name, content: None)
    monkeypatch.setattr(machine, "_checks", lambda _: [("pinned and registered", slow)])
    assert machine.preflight(found) == "1 checks; off: pinned and registered"  # type: ignore[arg-type]
    monkeypatch.setattr(machine, "_checks", lambda _: [("host memory", slow)])
    with pytest.raises(UserError, match="not fit: host memory: UserError: 20 GB/s"):
        machine.preflight(found)  # type: ignore[arg-type]
