"""Which code a result depends on: all that could change it, and nothing that only talks to people."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.experiment.compose import read_config
from sim.experiment.config import dump_configs

ROOT = Path(__file__).resolve().parents[3]

DIGESTS = """
import importlib, json, sys
from pathlib import Path
sys.path.append("site-packages")
from policies import registry
from sim.experiment.provenance import code_digest
theirs = {"planted": "policies.planted.policy", "acme": "acme.rooms.own"}
known = {name: getattr(importlib.import_module(module), "Own") for name, module in theirs.items()}
ours = registry.find
registry.find = lambda name: known.get(name) or ours(name)
def digests():
    code_digest.cache_clear()
    return [code_digest(name) for name in (None, "lru", "lfu_incache", "gate_ahead", "planted", "acme")]
before, found = digests(), {}
for files in sys.argv[1:]:
    texts = {Path(file): Path(file).read_bytes() for file in files.split()}
    for file, text in texts.items():
        file.write_bytes(text + b"# changed\\n")
    found[files] = "".join(str(int(a != b)) for a, b in zip(before, digests(), strict=True))
    for file, text in texts.items():
        file.write_bytes(text)
print(json.dumps([before, digests(), found]))
"""
LOADED = """
import json, sys
from pathlib import Path
from sim.experiment.config import load_config
from sim.experiment.run import run_config
from sim.experiment.provenance import code_of
run_config(load_config(Path(sys.argv[1])), sys.argv[2])
files = {Path(found) for module in list(sys.modules.values()) if (found := getattr(module, "__file__", None))}
root = Path("sim").resolve()
print(json.dumps(sorted(path.relative_to(root).as_posix() for path in files - code_of() if path.is_relative_to(root))))
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the tree with two policies more: in a folder of ``policies``, and of somebody else's package."""
    for package in ("sim", "policies", "traces", "conf"):
        ignore = shutil.ignore_patterns("__pycache__", "sample", "reference", "*.safetensors")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    for file, text in {
        "policies/planted/__init__.py": "",
        "policies/planted/policy.py": "from policies.lru import LRU\nfrom . import helper\nclass Own(LRU): pass\n",
        "policies/planted/helper.py": "from .deep.inner import x\n",
        "policies/planted/deep/__init__.py": "from ...parts import foreseen\n",
        "policies/planted/deep/inner.py": "x = 1\n",
        "policies/planted/another.py": "",
        "acme/__init__.py": "",
        "acme/rooms/__init__.py": "",
        "acme/rooms/own.py": "from policies.lru import LRU\ndef late(): from ..used import x\n"
        "class Own(LRU): name = 'acme'\n",
        "acme/used.py": "import acme.theirs.far\nimport other\nimport packed\nimport theirs\nx = 1\n",
        "acme/theirs/far.py": "",  # in a namespace package
        "acme/unused.py": "",
        "other.py": "",  # nobody installed it
        "site-packages/packed.py": "",  # installed together with the policy, and not
        "site-packages/theirs.py": "",
        "site-packages/acme-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1\n",
        "site-packages/acme-1.dist-info/RECORD": "packed.py,,\nacme-1.dist-info/METADATA,,\n",
        "site-packages/acme-1.dist-info/entry_points.txt": "[moe_offload.policies]\nacme = acme.rooms.own:Own\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def told(code: Path, program: str, *words: str) -> Any:
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_digests_follow_the_code_that_matters(code: Path) -> None:
    # Which digests the files change: the shared one, lru's, lfu_incache's, gate_ahead's, planted's, acme's.
    files = {
        "111111": "sim/core/state sim/machine/machine sim/prices/costs sim/workload/passes sim/experiment/cell"
        " sim/results/document traces/format/check policies/api policies/bounds/belady_bypass"
        " policies/lru",  # the reference row infinite is LRU
        "001000": "policies/lfu",  # which lfu_incache extends
        "000110": "policies/parts/foreseen",
        "000100": "policies/gate_ahead",
        "000010": "policies/planted/__init__ policies/planted/helper policies/planted/deep/__init__"
        " policies/planted/deep/inner",
        "000001": "acme/__init__ acme/rooms/__init__ acme/used acme/theirs/far other site-packages/packed",
        "000000": "policies/random policies/planted/another acme/unused site-packages/theirs sim/cli sim/__init__"
        " sim/experiment/compose sim/experiment/words sim/results/table sim/results/load sim/results/pictures/style"
        " sim/results/report/page traces/writing/writer traces/describe/cli",
    }
    changes = {f"{file}.py": which for which, names in files.items() for file in names.split() if "1" in which}
    changes[" ".join(f"{file}.py" for file in files["000000"].split())] = "000000"  # all at once change nothing
    before, after, found = told(code, DIGESTS, *changes)
    assert before == after
    assert len(set(before[1:])) == 5
    assert found == changes


def test_no_file_that_a_run_loads_is_left_out_unless_it_only_talks(tmp_path: Path) -> None:
    """Seen in what Python has loaded, not in what the source says that it imports."""
    config = tmp_path / "config.yaml"
    config.write_text(dump_configs([read_config(["policy=lru", "budget=4GB", "limit=1", "timeline=true"])]))
    talking = ["__init__.py", "results/wording.py"]
    assert told(ROOT, LOADED, str(config), str(tmp_path / "out")) == talking
