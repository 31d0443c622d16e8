"""The project as pip installs it, into environments of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.installing import Installed, copy_of_the_project, environment_of_its_own, plain_environment


@pytest.fixture(scope="session")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """``pip install -e``: what setuptools makes of it is part of the trial."""
    return _install(tmp_path_factory.mktemp("editable"), "--editable")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """``pip install``, and the project is gone."""
    return _install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(params=["editable", "wheel"])
def installed(request: pytest.FixtureRequest) -> Installed:
    """A real installation in both ways, by pip and setuptools."""
    found: Installed = request.getfixturevalue(request.param)
    return found


def _install(folder: Path, *how: str) -> Installed:
    python = environment_of_its_own(folder / "env")
    project = copy_of_the_project(folder / "project")
    words = ("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *how)
    command = [sys.executable, "-m", "pip", "--python", str(python), *words, str(project)]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if not how:
        shutil.rmtree(project)
    return Installed(python)
