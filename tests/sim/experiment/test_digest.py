"""Which code a result depends on: all that could change it, and nothing that only talks to people."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ASK = "from sim.experiment.digest import code_digest as d; print(d(), d('lru'), d('lfu_incache'), d('gate_ahead'))"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for package in ("sim", "policies", "traces", "conf"):
        ignore = shutil.ignore_patterns("__pycache__", "sample", "reference", "*.safetensors")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    return tmp_path


def digests(code: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", ASK], cwd=code, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_digests_follow_the_code_that_matters(code: Path) -> None:
    before = digests(code)
    assert before == digests(code)
    assert len(set(before[1:])) == 3

    # (file, which of the shared cell, lru, lfu_incache and gate_ahead it changes)
    for file, changes in (
        ("sim/machine.py", "1111"),
        ("sim/core/state.py", "1111"),
        ("traces/format/check.py", "1111"),
        ("policies/api.py", "1111"),
        ("policies/bounds/belady_bypass.py", "1111"),
        ("policies/lru.py", "1111"),  # the reference row infinite is LRU
        ("policies/parts/ranking.py", "0010"),  # imported by LFU, which lfu_incache extends
        ("policies/gate_ahead.py", "0001"),
        ("policies/random.py", "0000"),
        ("sim/experiment/help.py", "0000"),
        ("sim/results/pictures/style.py", "0000"),
        ("sim/results/report/page.py", "0000"),
        ("traces/describe/inspect.py", "0000"),
    ):
        path = code / file
        text = path.read_text()
        path.write_text(text + "# changed\n")
        changed = "".join(str(int(a != b)) for a, b in zip(before, digests(code), strict=True))
        path.write_text(text)
        assert changed == changes, file
