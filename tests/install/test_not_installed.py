"""``python -m real`` from a checkout that nobody installed: measuring ends with a result, and not with a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.installing import copy_of_the_project, plain_environment

pytest.importorskip("torch", reason="the runtime needs the extra 'hf'")
pytest.importorskip("transformers", reason="the runtime needs the extra 'hf'")

import traces

pytestmark = pytest.mark.ci

HIDDEN = """\
import importlib.metadata as metadata

plain = metadata.Distribution.discover.__func__


def discover(cls, **words):  # as in an environment that has everything but the project
    return (d for d in plain(cls, **words) if d.name != "moe-offload-workbench")


metadata.Distribution.discover = classmethod(discover)
"""
COMMON = ("threads=1", "format=json")
COMMANDS = {
    "run": ("policy=lru", "budget=50%", "limit=1", "max_new_tokens=2", "out=out"),
    "quality": ("policy=swapmoe", "budget=50%", "limit=1", "max_prompt_tokens=4", "max_new_tokens=2", "out=out"),
    "peers": ("policy=lru", "budget=50%", "prompt_tokens=4", "new_tokens=2"),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_project(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("verb", COMMANDS)
def test_measuring_needs_no_installation(verb: str, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    packages = [path for path in sys.path if path.endswith("-packages")]
    path = os.pathsep.join([str(tmp_path), str(checkout), *packages])
    env = plain_environment() | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ask = "from importlib.metadata import version as v; print(v('torch')); print(v('moe-offload-workbench'))"
    asked = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=False)
    assert asked.stdout, asked.stderr
    assert "PackageNotFoundError" in asked.stderr
    command = [sys.executable, "-m", "real", verb, *COMMANDS[verb], *COMMON]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{traces.__version__} (transformers " in json.dumps(json.loads(done.stdout))
