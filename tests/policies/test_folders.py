"""A policy is one file or one folder: a folder can be deleted whole, with its YAMLs, and nobody misses it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from policies import registry
from policies.api import Policy
from tests.test_imports import graph

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"bounds", "parts", "predictors"}
FOLDERS = sorted({path.parent.name for path in (ROOT / "policies").glob("*/__init__.py")} - SHARED)


def folder_of(name: str) -> str:
    """Of a policy, or its module where it is one file."""
    return registry.find(name).__module__.split(".")[1]


def test_nobody_else_imports_what_is_in_a_policy_s_folder() -> None:
    for module, others in graph().items():
        for folder in FOLDERS:
            own = f"policies.{folder}."
            assert f"{module}.".startswith(own) or not any(f"{it}.".startswith(own) for it in others), module


def test_a_folder_has_its_policies_under_its_name() -> None:
    """``from policies.fmoe import FMoE``, as from a policy of one file."""
    for folder in FOLDERS:
        kind = registry.find(folder)
        assert kind.__module__.startswith(f"policies.{folder}.")
        assert getattr(__import__(f"policies.{folder}", fromlist=[kind.__name__]), kind.__name__) is kind
        assert issubclass(kind, Policy)


@pytest.mark.ci  # it copies the project
def test_without_the_folders_all_else_works(tmp_path: Path) -> None:
    copy, large = tmp_path / "project", ("sample", "tiny_moe")
    for room in ("policies", "sim", "traces", "conf"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", *large))
    for name in large:
        (copy / "traces" / name).symlink_to(ROOT / "traces" / name)
    for folder in FOLDERS:
        shutil.rmtree(copy / "policies" / folder)
    for path in (copy / "conf" / "policy").glob("*.yaml"):
        if folder_of(yaml.safe_load(path.read_text(encoding="utf-8"))["name"]) in FOLDERS:
            path.unlink()
    program = (
        "import importlib, pkgutil, sim, policies\n"
        "for room in (policies, sim):\n"
        "    for info in pkgutil.walk_packages(room.__path__, f'{room.__name__}.'):\n"
        "        '__main__' in info.name or importlib.import_module(info.name)\n"
        "from policies import registry\n"
        "from sim.cli import main\n"
        "print(*registry.names())\n"
        "print(main(['run', 'policy=lru', 'limit=1', 'bounds=false', 'out=out']), main(['check', 'lru']))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names, *_, last = done.stdout.splitlines()
    assert names.split() == [name for name in registry.names() if folder_of(name) not in FOLDERS]
    assert "lru: " in done.stdout
    assert last == "0 0"
