"""constraints.txt, which a fresh clone installs, held against pyproject.toml; and the script that writes it."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.install.installing import ROOT
from tests.scripts import script_of

refresh = script_of(".ci/refresh.py")
TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")
BY_MACHINE = {"torch", "setuptools"}
ELSEWHERE = {"submitit", "ray"}
"""Extras that hold others at old releases: .ci/launchers has an environment of its own for them."""


def pinned(python: str) -> dict[str, Version]:
    """What the file says on a Python; two versions of one name are an error."""
    found: dict[str, Version] = {}
    for line in LINES:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"}):
            assert one.name not in found, f"{one.name} twice on Python {python}"
            found[one.name] = Version(str(one.specifier).removeprefix("=="))
    return found


def direct() -> list[Requirement]:
    """Every requirement that pyproject.toml names itself."""
    extras = [line for name, of in PROJECT["optional-dependencies"].items() if name not in ELSEWHERE for line in of]
    return [one for one in map(Requirement, [*PROJECT["dependencies"], *extras]) if one.name != PROJECT["name"]]


def test_it_names_exact_releases_and_nothing_of_one_machine() -> None:
    assert len(LINES) > 100
    for line in LINES:
        assert re.fullmatch(r'[a-z0-9-]+==[0-9][\w.]*( ; python_version [<>]=? "3\.\d+"( and .*)?)?', line), line
    names = [Requirement(line).name for line in LINES]
    assert names == sorted(names)
    assert all(canonicalize_name(name) == name for name in names)
    assert not {PROJECT["name"], *BY_MACHINE} & set(names)
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


@pytest.mark.parametrize("python", [*PYTHONS, "3.14"])
def test_every_direct_dependency_stands_in_it_within_its_range(python: str) -> None:
    found = pinned(python)
    for one in direct():
        if one.name not in BY_MACHINE:
            name = canonicalize_name(one.name)
            assert name in found, f"{name}: run .ci/refresh.py"
            assert one.specifier.contains(found[name], prereleases=True), f"{one}: constraints.txt has {found[name]}"


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "traces/README.md", ".ci/run", ".ci/launchers"])
def test_every_command_that_installs_the_project_uses_it(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    commands = re.findall(r"""pip install [^|&\n`]*?["']?\.(?=["'[\s])[^\n`]*""", text)
    assert commands
    assert not [command for command in commands if not re.search(r"-c \S*constraints\.txt", command)]


def report(**versions: str) -> dict[str, Any]:
    """As pip's."""
    return {"install": [{"metadata": {"name": n, "version": v}} for n, v in versions.items()]}


def test_what_pip_reports_but_for_what_differs_by_machine() -> None:
    said = report(Torch="2.13.0+cpu", nvidia_nccl_cu13="1", triton="3", setuptools="84", A_b="1.0")
    said["install"].append({"metadata": {"name": "moe_offload.workbench", "version": "0"}})
    assert refresh.constrained(said) == {"a-b": "1.0"}
    with pytest.raises(ValueError, match=r"a 1\.0"):
        refresh.constrained(report(a="1.0+cpu"))


def test_markers_only_where_the_pythons_differ() -> None:
    resolved = {
        "3.11": {"same": "1", "new": "1", "each": "1", "old": "3"},
        "3.12": {"same": "1", "new": "2", "each": "2"},
        "3.13": {"same": "1", "new": "2", "each": "3"},
    }
    assert refresh.lines(resolved) == [
        'each==1 ; python_version < "3.12"',
        'each==2 ; python_version >= "3.12" and python_version < "3.13"',
        'each==3 ; python_version >= "3.13"',
        'new==1 ; python_version < "3.12"',
        'new==2 ; python_version >= "3.12"',
        "old==3",
        "same==1",
    ]


def test_the_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refresh, "FILE", tmp_path / "constraints.txt")
    monkeypatch.setattr(refresh, "version_of", {"old": "3.11", "new": "3.12", "ancient": "3.9"}.get)

    def resolve(python: str) -> dict[str, str]:
        if python == "new":
            raise subprocess.CalledProcessError(1, ["pip", "install"], stderr="first\nERROR: no such release\n\n")
        return {"a": "1"}

    monkeypatch.setattr(refresh, "resolve", resolve)
    assert refresh.main(["old"]) == 0
    written = (tmp_path / "constraints.txt").read_text()
    assert written.endswith("\na==1\n")
    assert "not at hand: 3.12, 3.13" in capsys.readouterr().err
    assert refresh.main(["old", "new"]) == 1
    assert "error: Python 3.12: pip install ...: ERROR: no such release\n" in capsys.readouterr().err
    for words in (["nosuch"], ["ancient"], ["--hlep"]):
        assert refresh.main(words) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["constraints.txt"]
    assert (tmp_path / "constraints.txt").read_text() == written
