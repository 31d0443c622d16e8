"""An interrupted recording goes on where it was, and the trace is the same to the byte."""

import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - the module is left out without it

from tests.commands import collect as main
from traces import UserError, open_trace
from traces.cli import main as command
from traces.collect import record, serve

WORDS = "an interrupted recording goes on where it was and the trace is the same"
REQUESTS = 14
OPTIONS = ["max_new_tokens=6", "threads=1", "overhead=0", "device=cpu", "batch=2", "signals=all"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "p.txt"
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, 9))) for _ in range(REQUESTS)]
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(autouse=True)
def _always_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "CHECKPOINT_S", 0.0)


def arguments(saved: Path, prompts: Path, out: Path, *more: str) -> list[str]:
    return [f"model={saved}", f"prompts={prompts}", f"out={out}", *OPTIONS, *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(saved: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "trace"
    main(arguments(saved, prompts, out))
    return contents(out)


class Stop(BaseException):
    """What no handler expects."""


def begin(words: list[str], batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that is stopped after so many batches."""
    real, served = serve.serve, list[Any]()

    def stops(*args: Any) -> Any:
        if len(served) == batches:
            raise Stop
        served.append(args)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(record, "serve", stops)
        with pytest.raises(Stop):
            main(words)


@pytest.mark.parametrize("batches", [0, 1, 3, 6])
def test_it_goes_on_after_an_interruption(
    saved: Path,
    prompts: Path,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    batches: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "trace"
    begin(arguments(saved, prompts, out), batches, monkeypatch)
    assert not out.exists()
    real, served = serve.serve, list[Any]()
    monkeypatch.setattr(record, "serve", lambda *args: served.append(args) or real(*args))
    main(arguments(saved, prompts, out))
    assert len(served) == REQUESTS // 2 - batches
    assert (f"going on after {2 * batches} requests" in capsys.readouterr().err) == bool(batches)
    assert contents(out) == undisturbed
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace"]


def test_other_settings_do_not_go_on(
    saved: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "trace"
    begin(arguments(saved, prompts, out), 1, monkeypatch)
    for other, named in (("seed=4", "seed"), ("limit=3", "limit"), ("ahead=2", "ahead"), ("licence=MIT", "licence")):
        with pytest.raises(UserError, match=named) as caught:
            main(arguments(saved, prompts, out, other))
        assert "\n" not in str(caught.value)
    more = prompts.with_name("more.txt")
    more.write_text(prompts.read_text() + "\none more")
    with pytest.raises(UserError, match="prompts"):
        main(arguments(saved, more, out))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("device", ["cpu", "spread"])
def test_a_signal_ends_it_in_one_line(
    saved: Path,
    prompts: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And whatever it had put elsewhere is gone."""
    pytest.importorskip("accelerate", reason="device=spread needs accelerate")
    real = serve.serve
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(record, "serve", lambda *args: os.kill(os.getpid(), number) or real(*args))
    words = [word for word in arguments(saved, prompts, tmp_path / "trace") if word != "device=cpu"]
    words += ["device=cpu"] if device == "cpu" else ["device=spread", "max_memory=cpu:120KB"]
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert command(["collect", *words]) == status
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: the same command goes on"
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_end_says_so(
    saved: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "measure_overhead", stop)
    words = [word for word in arguments(saved, prompts, tmp_path / "trace") if word != "overhead=0"]
    assert command(["collect", *words]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [f"wrote {tmp_path / 'trace'}", f"interrupted: {tmp_path / 'trace'} is whole"]
    open_trace(tmp_path / "trace")


@pytest.mark.ci
def test_kill_9_and_again(saved: Path, prompts: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A real process, in which nothing more runs. At any moment of its writing: tests/traces/writing/test_crash.py."""
    code = """
import os, sys
from traces import cli
from traces.collect import record
record.CHECKPOINT_S = 0.0
real, served = record.serve, []
record.serve = lambda *args: os.kill(os.getpid(), 9) if len(served) == 3 else served.append(args) or real(*args)
cli.main(["collect", *sys.argv[1:]])
"""
    words = arguments(saved, prompts, tmp_path / "trace")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "trace").exists()) == (-signal.SIGKILL, False)
    main(words)
    assert contents(tmp_path / "trace") == undisturbed
