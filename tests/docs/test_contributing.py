"""CONTRIBUTING's recipes, followed word for word in a copy of the project: every file and command that they show."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install.installing import ROOT, copy_of_the_project, environment_of_its_own, plain_environment

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## Add an? (\w+) in ten minutes\n(.*?)(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"(?:^`([\w/.]+)`[^\n]*:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""The name of a file, if it is one; a language; the text."""
PIP = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
"""Nothing is downloaded; 0 is pip's word for no isolation."""

Follow = Callable[[str], list[str]]


@pytest.fixture
def follow(tmp_path: Path) -> Follow:
    """Write a recipe's files into a copy of the project, and give its commands there; what they say on stdout."""

    def do(recipe: str) -> list[str]:
        project = copy_of_the_project(tmp_path / "project", "tests", "CONTRIBUTING.md")
        path = environment_of_its_own(tmp_path / "env").parent
        env = {key: value for key, value in plain_environment().items() if not key.startswith("PYTEST_")}
        env |= {"PYTHONPATH": str(project), "PATH": f"{path}:{env['PATH']}", "PYTEST_ADDOPTS": "-n 0", **PIP}
        said = []
        for name, language, text in BLOCK.findall(RECIPES[recipe]):
            if name:
                place = project / name
                assert not place.exists(), f"{name}: a recipe is to add a file, not to change one"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
                continue
            assert language == "sh", f"a block of {language} that has no name"
            for command in text.splitlines():
                done = subprocess.run(
                    command, shell=True, cwd=project, env=env, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                said.append(done.stdout)
        return said

    return do


def test_every_recipe_is_followed() -> None:
    assert set(RECIPES) == {"policy", "predictor", "importer"}


@pytest.mark.ci
def test_a_policy(follow: Follow) -> None:
    ran, checked, tested = follow("policy")
    assert re.search(r"\bmru\b", ran)
    assert checked.startswith("mru: ")
    assert " passed" in tested
    assert "skipped" not in tested


@pytest.mark.ci
def test_a_predictor(follow: Follow) -> None:
    *_, ran, checked = follow("predictor")
    assert "predictor linear" in ran
    assert checked.startswith("linear: ")


@pytest.mark.ci
def test_an_importer(follow: Follow) -> None:
    *_, checked, inspected = follow("importer")
    assert checked.startswith("ok: my_trace: 2 requests, 4 steps, 5 tokens, 2 layers x 4 experts, top-2, ")
    assert "my_format" in inspected
