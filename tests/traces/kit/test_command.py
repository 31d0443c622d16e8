"""What runs a command: how it may end, and what is said then."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import Mock

import pytest

from traces.kit.command import Choice, Command, Program, guarded
from traces.kit.errors import Interrupted, UserError

ROOT = Path(__file__).resolve().parents[3]


NAMES = {"add": "add", "three": "three", "do": "BOTH"}


@dataclass(frozen=True)
class Words:
    """Adds one."""

    n: Annotated[str, "a number"] = "1"


def add(words: Words) -> None:
    print(int(words.n) + 1)


def three(words: Words) -> int:
    return 3


BOTH = Choice("KIND", "Does it in a way.\n", lambda: {f.__name__: partial(Command.of, f) for f in (add, three)})
PROGRAM = Program("it", "Shows.\n", {name: (f"{__name__}:{of}", "is so") for name, of in NAMES.items()})
PAGE = "python -m it add [key=value ...]\n\nAdds one.\n\n  n  a number  [1]\n"


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["add", "n=4"], 0, "5\n", ""),
        (["three"], 3, "", ""),
        (["do", "add", "n=1"], 0, "2\n", ""),
        (["do", "three"], 3, "", ""),
        (["do"], 2, "", "error: do: missing KIND; allowed: add, three\n"),
        (["do", "ad"], 2, "", "error: do ad: no such kind; allowed: add, three; did you mean add?\n"),
        (["nosuch"], 2, "", "error: nosuch: no such command; allowed: add, three, do, --help\n"),
        (["a\nb"], 2, "", "error: a\\nb: no such command; allowed: add, three, do, --help\n"),
        (["add", "-h"], 0, PAGE, ""),
        (["do", "add", "x", "--help"], 0, PAGE.replace("it add", "it do add"), ""),
    ],
)
def test_a_program(words: list[str], status: int, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (PROGRAM.main(words), *capsys.readouterr()) == (status, out, err)


def test_what_all_kinds_take_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["do", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("python -m it do KIND [key=value ...]\n\nDoes it in a way.\n\n  n  a number  [1]\n\nadd\n")
    assert page.count("a number") == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("a b\n  c"), 2, "error: a b c\n"),
        (UserError("a\x1b[31m"), 2, "error: a\\x1b[31m\n"),
        (OSError(28, "No space left", "a\nb"), 2, "error: a\\nb: No space left\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing unfinished was written\n"),
        (Interrupted("terminated", 143), 143, "terminated\n"),
    ],
)
def test_how_a_command_may_end(error: Any, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(Mock(side_effect=error)) == status
    assert capsys.readouterr() == ("", said)


# A simulation that a batch system ended was a TypeError, and a grid went on with its next cell.
def test_an_end_from_outside_is_the_same_where_simpy_makes_it_anew() -> None:
    ended = Interrupted("terminated", 143)
    again = type(ended)(*ended.args)
    assert (str(again), again.status) == (str(ended), ended.status) == ("terminated", 143)


def test_our_own_mistake_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(Mock(side_effect=ZeroDivisionError))


def test_a_batch_systems_signal_lets_go_of_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    let_go = []

    def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            return 0
        finally:
            let_go.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(command) == 143
    assert (let_go, signal.getsignal(signal.SIGTERM)) == ([True], before)
    assert capsys.readouterr().err == "terminated\n"


def test_nobody_reads_any_more() -> None:
    code = "import sys; from traces.cli import main; sys.exit(main(['import', '--help']))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=nobody, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")
