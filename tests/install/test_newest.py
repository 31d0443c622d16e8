"""What ``.ci/newest.py`` says of other people's newest releases; it fails for none of them, nor for a network."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import script_of

CONSTRAINTS = """\
# a line of words
a==1.0
b==2.0 ; python_version < "3.12"
b==2.1 ; python_version >= "3.12"
"""


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script_of(".ci/newest.py")
    monkeypatch.setattr(module, "LOG", tmp_path / "newest.log")
    return module


def test_what_changed_against_the_file(newest: ModuleType) -> None:
    found = {"a": "1.0", "b": "2.1", "c": "3"}
    assert newest.changes(found, CONSTRAINTS, "3.11.7") == ["b: 2.0 -> 2.1", "c: not needed -> 3"]
    assert newest.changes(found, CONSTRAINTS, "3.13.0") == ["c: not needed -> 3"]
    report = {"install": [{"metadata": {"name": n, "version": "9"}} for n in ("torch", "B_b", "moe-offload-workbench")]}
    assert newest.releases(report) == {"b-b": "9"}


SAID = "WARNING\n  ERROR: no network\nnote: not of pip\n"
BROKEN = subprocess.CalledProcessError(1, ["python", "-m"], output="1 failed\n", stderr=SAID)
LATE = subprocess.TimeoutExpired(["python", "-m", "pip", "install"], 80.0)


@pytest.mark.parametrize(
    ("failing", "error", "said"),
    [
        ("none", LATE, "!! passed on them"),
        ("--report", BROKEN, "!! NOT TRIED: ERROR: no network"),
        ("--report", LATE, "!! NOT TRIED: -m pip install took longer than 80 s"),
        ("--target", BROKEN, "!! NOT TRIED: ERROR: no network"),
        ("--target", OSError("disk full"), "!! NOT TRIED: OSError: disk full"),
        ("pytest", BROKEN, "!! FAILED on them, exit status 1:\n!! 1 failed"),
        ("pytest", LATE, "!! NOT FINISHED on them within "),
    ],
)
def test_whatever_happens_is_said_and_fails_nothing(
    newest: ModuleType, failing: str, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def run(*command: str, limit_s: float, **more: str) -> None:
        """Pip and pytest as they would answer; the step with that word among its own fails."""
        if failing in command:
            raise error
        if "--report" in command:
            report = {"install": [{"metadata": {"name": "transformers", "version": "99.0"}}]}
            Path(command[command.index("--report") + 1]).write_text(json.dumps(report))
        if "pytest" in command:
            assert Path(more["PYTHONPATH"].partition(":")[0]).name == "beside"

    monkeypatch.setattr(newest, "_run", run)
    assert newest.main(["tests"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert newest.LOG.read_text() == printed
    assert ("!! transformers: " in printed) == (failing not in ("--report", "--target"))


def test_a_command_past_its_limit_is_ended_with_its_children(newest: ModuleType, tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    with pytest.raises(subprocess.TimeoutExpired):  # and it returns: nobody holds the pipe any more
        newest._run(sys.executable, "-c", code, limit_s=1)
