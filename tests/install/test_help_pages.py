"""Every help page of every program fits a terminal of 80 columns, and a verb that is nearly one is offered."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

PROGRAMS = ("traces", "policies", "sim", "real")
VERBS = {
    "traces": {"check", "inspect", "import", "arrivals", "collect", "calibrate"},
    "policies": {"fit", "apply"},
    "sim": {"run", "compare", "report", "config", "check", "curve", "timeline", "bench"},
    "real": {"run", "validate", "diff", "calibrate", "quality", "peers", "measure", "evaluate"},
}


def said(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = import_module(f"{program}.cli").main(words)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_help_page_fits_80_columns(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = said(program, ["nosuch"], capsys)
    verbs = set(re.split(r", ", re.sub(r"; did you mean.*", "", error.strip().rpartition("allowed: ")[2])))
    assert status == 2
    assert verbs - {"--help"} >= VERBS[program]
    wide = []
    for words in ([], *([verb] for verb in sorted(verbs - {"--help"}))):
        pytest.importorskip("torch", reason="some commands need the extra 'hf'") if program == "real" else None
        status, page, _ = said(program, [*words, "--help"], capsys)
        assert status == 0
        assert page.startswith((f"python -m {program}", "Work with", "Fit what")), words
        wide += [f"{program} {' '.join(words)}: {line}" for line in page.splitlines() if len(line) > 80]
    assert not wide, "\n".join(wide)


@pytest.mark.parametrize(
    ("program", "verb", "meant"),
    [
        *(("sim", "runn", "run"), ("sim", "Compare", "compare"), ("real", "validte", "validate")),
        *(("policies", "aply", "apply"), ("traces", "improt", "import"), ("traces", "calibrat", "calibrate")),
    ],
)
def test_a_verb_that_is_nearly_one_is_offered(
    program: str, verb: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = said(program, [verb], capsys)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert error.endswith(f"; did you mean {meant}?\n")
