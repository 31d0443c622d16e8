"""Run the command line as a person does: a process of its own, in an empty folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "traces" / "sample"

Sim = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sim(tmp_path: Path) -> Sim:
    """``sim("run", "policy=lru", ...)``: python -m sim in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()

    def call(*words: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "sim", *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

    return call
