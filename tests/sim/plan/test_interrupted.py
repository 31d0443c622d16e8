"""A plan that somebody ends says so in one line, and leaves no process behind, whatever its pool does just then."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sim.plan.cells import Runner
from traces.kit.errors import UserError

SCRIPT = """
import sys, time
from pathlib import Path
from sim.plan.cells import Runner
from tests.sim.plan.test_interrupted import sleeps
from traces.kit.command import guarded

def plan():
    with Runner(Path("."), 2) as runner:
        runner.each(sleeps, [(120,), (120,), (120,)])

if __name__ == "__main__":
    sys.exit(guarded(plan))
"""


def sleeps(seconds: float) -> None:
    """In a process of the pool; says that it has begun."""
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    time.sleep(seconds)


def anybody_of(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def dies(status: int) -> None:
    os._exit(status)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("number", "everybody", "status", "said"),
    [
        (signal.SIGINT, True, 130, "interrupted; nothing unfinished was written\n"),
        (signal.SIGTERM, False, 143, "terminated\n"),
        (signal.SIGTERM, True, 143, "terminated\n"),
    ],
)
def test_it_ends_in_one_line(number: int, everybody: bool, status: int, said: str, tmp_path: Path) -> None:
    """``everybody``: a terminal sends Ctrl-C, and a batch system its signal, to all processes of the group."""
    file = tmp_path / "plan.py"
    file.write_text(SCRIPT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as begun:
        try:
            assert begun.stdout is not None
            assert begun.stdout.readline() == "begun\n"
            (os.killpg if everybody else os.kill)(begun.pid, number)
            _, error = begun.communicate(timeout=120)
            assert (begun.returncode, error) == (status, said)
            for _ in range(100):  # multiprocessing's own tracker ends last
                if not anybody_of(begun.pid):
                    return
                time.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(begun.pid, signal.SIGKILL)
    raise AssertionError("a process was left behind")


@pytest.mark.ci
def test_a_process_that_dies_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a process of the plan was ended from outside"), Runner(tmp_path, 2) as runner:
        runner.each(dies, [(1,), (1,)])
