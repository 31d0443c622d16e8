"""Copies of the project to install or to run, folders that get in the way, and commands in an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("traces", "policies", "sim", "real", "conf")
"""What a user may call a folder of their own."""
PARTS = (*OURS, "tests/sim/machine", "moe_offload.py", "pyproject.toml", "README.md", "LICENSE")
FORMS = ("namespace", "package")


def copy_of_the_project(to: Path) -> Path:
    """What an installation is made of; the large reference model by a link."""
    for part in PARTS:
        place = to / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place, ignore=shutil.ignore_patterns("__pycache__", "model", "results"))
        else:
            shutil.copy(ROOT / part, place)
    shutil.copytree(ROOT / "conf" / "model", to / "conf" / "model")
    (to / "traces" / "reference" / "model").symlink_to(ROOT / "traces" / "reference" / "model")
    return to


def folders_of_the_user(where: Path, names: Sequence[str], form: str) -> Path:
    """A folder that has folders of these names, without ``__init__.py`` (namespace) or with one that breaks things."""
    for name in names:
        (where / name).mkdir(parents=True)
        (where / name / "notes.txt").write_text("the user's own")
        if form == "package":
            (where / name / "__init__.py").write_text("theirs = True\n")
    return where


def plain_environment() -> dict[str, str]:
    """The environment without what would lead Python to a checkout."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}


@dataclass(frozen=True)
class Installed:
    """An environment that has the project, and where a command is run in it."""

    python: Path

    def run(self, *words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """``moe-offload`` with these words; ``more``: of the environment."""
        return self._call([str(self.python.with_name("moe-offload")), *words], cwd, more)

    def module(self, *words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """``python -m`` with these words."""
        return self._call([str(self.python), "-m", *words], cwd, more)

    def code(self, code: str, *, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """``python -c``, as a notebook imports: from where it lies, too."""
        return self._call([str(self.python), "-c", code], cwd, more)

    @staticmethod
    def _call(command: list[str], cwd: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        env = plain_environment() | more
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
