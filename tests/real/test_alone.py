"""real/ runs where there is neither pyarrow nor Hydra, nor anything else that a GPU server may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from real.validation.compare import compare
from sim.cli import main as simulator
from sim.experiment.cell import make_cell
from sim.prices import shipped
from tests.real.validation.cases import config, tiny

ROOT = Path(__file__).parents[2]
MISSING = ("pyarrow", "pandas", "hydra", "omegaconf", "simpy", "matplotlib", "scipy", "sklearn", "rich")
MISSING += ("pytest", "hypothesis")

PROLOGUE = f"""
import sys, pathlib, pkgutil, importlib
for name in {MISSING!r}:
    assert name not in sys.modules
    sys.modules[name] = None  # importing it fails, as if it were not there
import real
for module in pkgutil.walk_packages(real.__path__, "real."):
    if not module.name.endswith((".__main__", ".table")):  # tables are rich's, or else JSON
        importlib.import_module(module.name)
"""

VALIDATE = """
from real.cli import main
from real.runtime.models import Where
from real.runtime.recorded import run_forced
from sim.experiment.cell import make_cell
from sim.experiment.config import load_configs
from sim.experiment.cell import make_policy
cell = make_cell(load_configs(pathlib.Path(sys.argv[1]))[0])
run_forced(cell, Where("cpu").open(sys.argv[2], "float32", "random"), make_policy(cell))
del sys.modules["simpy"]  # the simulator's
sys.exit(main(sys.argv[3:]))
"""

CHECKS = """
import torch
torch.set_num_threads(1)
from real.runtime.models import Where
from real.runtime.selfcheck import CHECKS, ONLY_CUDA
Where("cpu").open("tiny-moe", "float32")
for name in CHECKS.keys() - ONLY_CUDA:
    CHECKS[name](torch.device("cpu"))
    print(name)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)


@pytest.mark.ci
def test_a_resolved_grid_gives_the_same_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is written where Hydra is: python -m sim config -m."""
    folder, trace, model = tiny()
    assert simulator(["config", "-m", "policy=lru,lfu", "budget=40%", f"trace={trace}", "model=as_traced"]) == 0
    (tmp_path / "grid.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "a100.yaml").write_text(yaml.safe_dump(dict(shipped("hardware", "a100"))))
    grid = f"{tmp_path}/grid.yaml"
    words = ["validate", "--config", grid, f"hardware={tmp_path}/a100.yaml", f"checkpoint={folder}"]
    words += ["weights=random", "format=json", f"out={tmp_path}/out", "threads=1"]
    done = python(PROLOGUE + VALIDATE, grid, str(folder), *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "tiny.json").read_text()) == found
    assert found["provenance"]["hardware"]["name"] == "a100"
    for row in found["cells"]:
        cell = make_cell(config(f"policy={row['policy']['name']}", "budget=40%", "hardware=a100"))
        mine, _ = compare(cell, model)
        assert row["replay"]["agrees"]
        assert mine["replay"]["agrees"]
        assert mine["simulated_digest"] == row["simulated_digest"]
        # What a device hits goes by when its computes end, too, where an event takes slots of its own experts.
        simulated = [it["errors"]["hit_complete"]["simulated"] for it in (mine, row)]
        assert simulated[0] == simulated[1]


@pytest.mark.ci
def test_a_device_is_checked_without_them_too() -> None:
    done = python(PROLOGUE + CHECKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forced_passes_agree" in done.stdout
