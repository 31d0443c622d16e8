"""What a run does without until its first event, and to its end: what an import takes, every run takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from policies import ours
from tests.install.installing import ROOT

CODE = """
import json, sys
from contextlib import redirect_stdout, suppress
from sim.cli import main
with redirect_stdout(sys.stderr):
    main(["--help"])
seen = {"page": sorted(sys.modules)}
from sim.core.core import Core
begin = Core.step_begin
def first(core, *words):
    seen.setdefault("first event", sorted(sys.modules))
    return begin(core, *words)
Core.step_begin = first
with redirect_stdout(sys.stderr):
    assert main(["run", "policy=lfu", "hardware=rtx_3090", "workload.batch=1", "limit=1", "bounds=false", "out=o"]) == 0
    seen["end"] = sorted(sys.modules)
    assert main(["run", "--help"]) == 0
seen["help"] = sorted(sys.modules)
print(json.dumps(seen))
"""
NOT_BEFORE = {"rich", "pyarrow", "sim.results.table", "sim.results.parquet"}
NEVER = {"hydra", "omegaconf", "antlr4", "pandas", "matplotlib", "scipy", "sklearn", "torch", "transformers"}


ENV = os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_run_imports_only_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=tmp_path, env=ENV
    )
    assert done.returncode == 0, done.stderr
    seen = {when: {*modules} for when, modules in json.loads(done.stdout).items()}
    assert "numpy" in seen["first event"] - seen["page"]
    assert seen["first event"] & (NOT_BEFORE | NEVER) == set()
    assert {"rich", "pyarrow"} <= seen["end"]
    assert [seen[when] & NEVER for when in ("end", "help")] == [set(), set()]
    modules_of_policies = {module for modules in ours._modules().values() for module in modules}
    assert modules_of_policies & seen["end"] == {"policies.lfu", "policies.lru"}, (
        "of the policies its own, and that of the bounds"
    )
