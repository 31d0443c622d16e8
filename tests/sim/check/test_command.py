"""``python -m sim check``: for a policy of ours, for one of another package, and for those that break the contract."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ci  # it installs a package
ROOT = Path(__file__).resolve().parents[3]
MODULE = '''
"""Somebody else's policies."""
from policies.lru import LRU


class Theirs(LRU):
    """Their own. Evict the most recent. O(n) per victim. Lossless."""

    name = "theirs"

    def __init__(self, setup, *, newest: bool = True) -> None:
        super().__init__(setup)
        self.newest = newest

    def victim(self, incoming, speculative):
        order = self.pools[incoming // self.span]
        return next((x for x in (reversed(order) if self.newest else order) if self.view.evictable(x)), None)


class Far(LRU):
    """Refuses what is too near. O(1). Lossless."""

    name = "far"

    def __init__(self, setup, *, reach: int = 3) -> None:
        super().__init__(setup)
        if reach < 3:
            raise ValueError("too near")


class Grabber(LRU):
    """Says too much. O(1). Lossless."""

    name = "grabber"

    def on_gate(self, event):
        event.demand.reverse()
        super().on_gate(event)


class Hasty(LRU):
    name = "hasty"

    def on_gate(self, event):
        raise KeyError(event.layer)
'''
POINTS = "[moe_offload.policies]\n" + "".join(
    f"{n.lower()} = their_package:{n}\n" for n in ("Theirs", "Far", "Grabber", "Hasty")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the package, and its metadata with entry points."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "their_package.py").write_text(MODULE)
    info = folder / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return folder


def sim(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    return subprocess.run([sys.executable, "-m", "sim", *words], env=env, capture_output=True, text=True, check=False)


def test_a_policy_of_another_package_is_checked(site: Path) -> None:
    done = sim(site, "check", "theirs", "far")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "far: 3 variants\n  left out, as it refuses them: reach=2\n  causality    holds, tried 12" in done.stdout
    assert done.stdout.startswith("theirs: 2 variants\n  causality    holds, tried 8 times\n")
    assert done.stdout.count("holds") == 18


def test_the_check_names_what_is_broken(site: Path) -> None:
    done = sim(site, "check", "grabber", "hasty", "nosuch")
    assert done.returncode == 2
    assert "policy=nosuch: unknown" in done.stderr
    assert done.stdout == ""
    done = sim(site, "check", "grabber", "hasty")
    assert done.returncode == 1
    assert "BROKEN: grabber, seed 0: it changed the demand that it was shown" in done.stdout
    assert "BROKEN: hasty, seed 0: KeyError: 0 (their_package.py, line " in done.stdout
    assert "docstring    BROKEN: hasty has no docstring" in done.stdout


def test_it_is_in_the_help_and_runs_in_a_sweep(site: Path, tmp_path: Path) -> None:
    assert "theirs" in sim(site, "run", "--help").stdout
    words = ["policy=theirs,lru", "budget=[2GB,4GB]", "limit=1", "bounds=false", f"out={tmp_path}", "format=json"]
    done = sim(site, "run", "-m", *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [d["config"]["policy"]["name"] for d in documents] == ["theirs", "theirs", "lru", "lru"]
    assert documents[0]["config"]["policy"]["newest"] is True
