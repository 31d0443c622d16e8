"""Progress: a line now and then where nobody looks, and on a terminal something that is gone afterwards."""

import io
import re
import sys
import time

import pytest

from traces.kit import telling
from traces.kit.telling import left, showing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_rest_takes_as_long_as_what_is_done() -> None:
    cases = {(12, 60, 50.0): "3:20", (1, 1001, 5.0): "1:23:20", (3, 3, 9.0): "0:00", (4, 3, 9.0): "0:00"}
    assert {case: left(*case) for case in cases} == cases


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(lambda: (0.5, "half [of] it"), 0.01):
        while not (found := capsys.readouterr()).err:
            time.sleep(0.01)
    assert {*found.err.splitlines(), *capsys.readouterr().err.splitlines()} == {"half [of] it"}
    with showing(lambda: (0.5, "half"), None):
        pass
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_in_place_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(telling, "PATIENCE_S", 0.0)
    with showing(lambda: (0.5, "half [of] it"), 0.01):
        pass
    text = stream.getvalue()
    assert "half [of] it" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert text.rstrip().endswith("\x1b[2K"), "the line is erased"
