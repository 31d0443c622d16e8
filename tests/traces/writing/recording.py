"""A recording that is the same whenever it is repeated, and a process that plays it and dies where it is told to.

As a script: each line of stdin is a Plan, played by a forked child that answers with one line. The child dies by
``os._exit`` just before its n-th call into the operating system (reads excepted), so nothing in memory gets out that
``kill -9`` would have lost.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import filelock  # noqa: F401 - before the forks, each of which would load it
import numpy as np

from tests.traces.tiny_trace import MANIFEST, SIGNALS, E, K, L, draw
from traces import DECODE, PREFILL, Request, TraceError, TraceWriter

READS = {"stat", "lstat", "fstat", "listdir", "scandir", "read", "tell", "fileno", "fspath", "getcwd", "readable"}


@dataclass(frozen=True)
class Plan:
    """Requests by their decode steps; after which of them there is a checkpoint; and where to die, if at all."""

    folder: str
    steps: tuple[int, ...]
    checkpoints: tuple[int, ...] = ()
    signals: tuple[str, ...] = ()
    die_at: int | None = None

    @property
    def path(self) -> Path:
        """Where the trace is to appear."""
        return Path(self.folder) / "trace"


PLAN = Plan("", (1, 0, 2))
RECIPE: dict[str, Any] = {"model": "tiny", "seed": 1, "prompts": ["a", "b"]}
RECIPE |= {"decoding": {"mode": "greedy", "top_p": 1.0}}


def writer(path: Path, signals: tuple[str, ...] = (), **changes: Any) -> TraceWriter:
    """Open the writer of the tiny model."""
    shapes = {name: SIGNALS[name] for name in signals}
    return TraceWriter(path, **{"n_layers": L, "n_experts": E, "top_k": K, "signals": shapes, **changes})


def add(out: TraceWriter, number: int, decodes: int, signals: tuple[str, ...] = ()) -> None:
    """Add request ``number``, which is the same in every process."""
    steps = [(PREFILL, 3, 0)] + [(DECODE, 1, 3 + index) for index in range(decodes)]
    rows = draw(np.random.default_rng(number), 3 + decodes, out.absent)
    request = Request(number, 3, decodes, number / 4, None, f"source {number}")
    out.add_request(request, steps=steps, **{name: rows[name] for name in ("expert_ids", *signals)})


class Stop(Exception):  # noqa: N818 - it is not an error
    """Ends the block of interrupted()."""


@contextmanager
def interrupted(path: Path, signals: tuple[str, ...] = (), **changes: Any) -> Iterator[TraceWriter]:
    """Open a writer whose block ends by an exception before it is closed."""
    with suppress(Stop), writer(path, signals, **changes) as out:
        yield out
        raise Stop


def play(plan: Plan, recipe: dict[str, Any] | None, report: dict[str, Any]) -> None:
    """Record the plan from wherever it stands; ``report`` tells how far it came: requests resumed and sure."""
    with writer(plan.path, plan.signals, recipe=recipe) as out:
        report["resumed"] = report["sure"] = out.requests
        for number in range(out.requests, len(plan.steps)):
            add(out, number, plan.steps[number], plan.signals)
            if recipe is not None and number in plan.checkpoints:
                out.checkpoint()
                report["sure"] = out.requests
        out.close(**MANIFEST)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` by its relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reference(plan: Plan) -> dict[str, bytes]:
    """Return the files of the plan's trace as an undisturbed writer without a recipe makes them."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = replace(plan, folder=folder, die_at=None)
        play(undisturbed, None, {})
        return contents(undisturbed.path)


def begin(path: Path, requests: int = 2) -> None:
    """Leave a recording behind, with its last checkpoint after ``requests``, and one request more."""
    with interrupted(path, recipe=RECIPE) as out:
        for number in range(requests):
            add(out, number, PLAN.steps[number])
        out.checkpoint()
        add(out, requests, PLAN.steps[requests])


def finish(path: Path, recipe: dict[str, Any] = RECIPE) -> None:
    with writer(path, recipe=recipe) as out:
        for number in range(out.requests, len(PLAN.steps)):
            add(out, number, PLAN.steps[number])
        out.close(**MANIFEST)


def finish_alike(path: Path, recipe: dict[str, Any] = RECIPE) -> None:
    """And the trace is the one of an undisturbed recording, byte for byte."""
    finish(path, recipe)
    assert contents(path) == reference(PLAN)


def _answer(plan: Plan) -> None:
    report: dict[str, Any] = {"points": 0}

    def end() -> None:
        sys.setprofile(None)
        os.write(1, json.dumps(report).encode() + b"\n")
        os._exit(0)

    def point(_frame: object, event: str, call: Any) -> None:
        if event != "c_call" or call.__name__ in READS:
            return
        owner = type(getattr(call, "__self__", None)).__module__
        if getattr(call, "__module__", None) in ("posix", "fcntl") or owner == "_io":
            if report["points"] == plan.die_at:
                report["died"] = True
                end()
            report["points"] += 1

    # What a killed process has written stays: nothing needs to reach the disk.
    os.fsync = lambda _: None
    sys.setprofile(point)
    try:
        play(plan, {"steps": plan.steps}, report)
    except TraceError as error:
        report["error"] = str(error)
    except BaseException as error:
        report["error"] = repr(error)
    end()


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            fields = {key: tuple(it) if isinstance(it, list) else it for key, it in json.loads(line).items()}
            _answer(Plan(**fields))
        os.waitpid(child, 0)


class Player:
    """This script in a process with one thread only, so that it can fork: a context manager, since it must end."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def __call__(self, plan: Plan) -> dict[str, Any]:
        """Play the plan until it ends or dies; returns its report: points passed, requests resumed and sure."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


if __name__ == "__main__":
    _serve()
