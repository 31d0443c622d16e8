"""What commands and tables say, as a test reads it; and results on disk that a test edits."""

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sim.cli import main


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command, which is one line on stderr and nothing else."""
    capsys.readouterr()
    assert main(list(words)) == 2, words
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def printed(show: Callable[[Any, Console], None], what: object, width: int = 100) -> list[str]:
    """The lines that ``show`` prints on a console."""
    file = StringIO()
    show(what, Console(file=file, width=width, highlight=False))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the result of a run."""
    file = folder / "result.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))
