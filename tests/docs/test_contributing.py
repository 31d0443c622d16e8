"""CONTRIBUTING's "add a policy in ten minutes", followed word for word in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPE = PAGE.partition("## Add a policy in ten minutes")[2].partition("\n## ")[0]
LARGE = ("sample", "reference")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project, what is large by a link."""
    copy = tmp_path / "project"
    for name in ("policies", "sim", "traces", "conf", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", *LARGE))
    for name in LARGE:
        (copy / "traces" / name).symlink_to(ROOT / "traces" / name)
    for file in ("pyproject.toml", "moe_offload.py"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.mark.ci
def test_the_recipe_works_as_it_stands(project: Path) -> None:
    files = re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", RECIPE, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["policies/mru.py", "conf/policy/mru.yaml"]
    for name, text in files:
        path = project / name
        assert not path.exists(), f"{name}: the recipe is to add a policy, not to change one"
        path.write_text(text, encoding="utf-8")
    [block] = re.findall(r"^```sh\n(.*?)^```$", RECIPE, flags=re.MULTILINE | re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 3
    nested = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = nested | {"PYTHONPATH": str(project), "PATH": path, "PYTEST_ADDOPTS": "-n 0"}
    said = []
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=project, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    ran, checked, tested = said
    assert re.search(r"\bmru\b", ran)
    assert checked.startswith("mru: ")
    assert " passed" in tested
    assert "skipped" not in tested
