"""Copies of the project to install or to run, folders that get in the way, and commands in an environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("traces", "policies", "sim", "real", "conf")
"""What a user may call a folder of their own."""
PARTS = (*OURS, "tests/sim/machine", "moe_offload.py", "pyproject.toml", "README.md", "LICENSE")
MODEL = "traces/tiny_moe/model"
FORMS = ("namespace", "package")


def copy_of_the_project(to: Path, *more: str) -> Path:
    """What an installation is made of, and ``more``; the large model by a link."""
    for part in (*PARTS, *more):
        place = to / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place, ignore=_left_out, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / part, place)
    (to / MODEL).symlink_to(ROOT / MODEL)
    return to


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or Path(folder, name) == ROOT / MODEL}


def folders_of_the_user(where: Path, names: Sequence[str], form: str) -> Path:
    """A folder that has folders of these names, without ``__init__.py`` (namespace) or with one that breaks things."""
    for name in names:
        (where / name).mkdir(parents=True)
        (where / name / "notes.txt").write_text("the user's own")
        if form == "package":
            (where / name / "__init__.py").write_text("theirs = True\n")
    return where


def environment_of_its_own(folder: Path) -> Path:
    """The Python of a new environment: what the project needs, pip and setuptools among it, and not the project."""
    for tool in ("pip", "setuptools"):
        if find_spec(tool) is None:
            pytest.skip(f"installing needs {tool}, which this environment lacks")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # As plain entries of the path: an installation of the project that is there does not come along.
    (site / "needs.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin" / "python"


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
