"""real/ runs where there is neither pyarrow nor Hydra, nor anything else that a GPU server may lack."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.experiment.compose import read_config
from tests.sim.small_trace import Plan, write

ROOT = Path(__file__).parents[2]
MISSING = ("pyarrow", "pandas", "hydra", "omegaconf", "simpy", "matplotlib", "scipy", "sklearn", "rich")
MISSING += ("pytest", "hypothesis")

PROLOGUE = f"""
import sys, pkgutil, importlib
for name in {MISSING!r}:
    assert name not in sys.modules
    sys.modules[name] = None  # importing it fails, as if it were not there
import real
for module in pkgutil.walk_packages(real.__path__, "real."):
    if not module.name.endswith((".__main__", ".table")):  # tables are rich's, or else JSON
        importlib.import_module(module.name)
"""

RUN = """
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from real.runtime.recorded import run_forced
from real.runtime.models import open_model
from real.runtime.offloaded import Offloaded
from sim.experiment.cell import make_cell
from sim.experiment.cell import make_core, make_policy
from sim.experiment.config import load_config
from sim.core.log import replay
cell = make_cell(load_config(Path(sys.argv[1])))
policy = make_policy(cell)
run = run_forced(cell, Offloaded(open_model("reference", "float32", "auto"), torch.device("cpu")), policy)
assert replay(run.core.log, make_core(cell, make_policy(cell))) == run.core.digest()
print(run.outcome.accounts.hit_row()[0])
"""


CHECKS = """
import torch
torch.set_num_threads(1)
from real.runtime.selfcheck import CHECKS, ONLY_CUDA
for name in CHECKS.keys() - ONLY_CUDA:
    CHECKS[name](torch.device("cpu"))
    print(name)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)


@pytest.mark.ci
def test_it_runs_without_what_a_server_may_lack(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(64), (8, 16, 1)), axis=-1)[..., :8]
    write(tmp_path / "trace", [Plan((4,), 1), Plan((2,), 1)], ids, n_experts=64)
    config = read_config(["policy=lru", "model=reference", "budget=30%", f"trace={tmp_path / 'trace'}"])
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    done = python(PROLOGUE + RUN, str(tmp_path / "config.yaml"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4 * 16 * 8


@pytest.mark.ci
def test_a_device_is_checked_without_them_too() -> None:
    done = python(PROLOGUE + CHECKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forced_passes_agree" in done.stdout
