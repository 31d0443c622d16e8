"""Folders of the user's own that are called as our packages are break nothing: ``moe-offload`` and ``python -m``."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.install.installing import FORMS, OURS, Installed, folders_of_the_user
from traces.version import __version__

pytestmark = pytest.mark.ci

SMALL = ("budget=4GB", "limit=1", "bounds=false")
RUN = ("policy=lru", *SMALL, "format=json")
SWEEP = ("-m", "policy=lru,fifo", *SMALL, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.fixture(scope="module", params=FORMS)
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user stands, with a folder of each of the five names."""
    return folders_of_the_user(tmp_path_factory.mktemp(request.param), OURS, request.param)


def test_each_part_of_the_program_runs_beside_them(installed: Installed, there: Path) -> None:
    done = installed.run("--version", cwd=there)
    assert (done.stdout, done.stderr) == (f"moe-offload-workbench {__version__}\n", "")
    done = installed.run("sim", "run", *RUN, "out=out", cwd=there)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hit_rate"]["complete"] > 0
    assert (there / "out").is_dir()
    done = installed.run("traces", "import", "nosuch", "a", "b", cwd=there)
    assert done.stderr.startswith("error: import nosuch: no such format; allowed: "), done.stderr
    done = installed.run("policies", "fit", "promoe", "trace=nosuch", "out=fitted", cwd=there)
    assert done.stderr.startswith("error: trace=nosuch: no such folder"), done.stderr
    done = installed.run("real", "run", "policy=nosuch", cwd=there)
    assert done.stderr.startswith("error: policy=nosuch: unknown; allowed: "), done.stderr


def sweeps(done: CompletedProcess[str]) -> None:
    assert "2 cells in swept: 2 run, 0 read" in done.stderr, done.stderr
    assert done.returncode == 0


def test_its_child_processes_run_beside_them(editable: Installed, there: Path) -> None:
    done = editable.run("sim", "check", "on_demand", cwd=there)
    assert "hash seeds   holds" in done.stdout, done.stdout + done.stderr
    sweeps(editable.run("sim", "run", *SWEEP, "out=swept", cwd=there))


@pytest.mark.parametrize("path", ["{there}", ":"], ids=["named", "empty"])  # an empty entry is the folder one is in
def test_a_path_that_leads_to_them_is_survived_too(editable: Installed, path: str, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, OURS, "package")
    sweeps(editable.run("sim", "run", *SWEEP, "out=swept", cwd=here, PYTHONPATH=path.format(there=here)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OURS)
def test_python_m_beside_each(installed: Installed, name: str, form: str, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, [name], form)
    room = "sim" if (name, form) != ("sim", "package") else "real"  # for Python takes theirs, and none of ours runs
    done = installed.module(room, "run", "policy=nosuch", cwd=here)
    assert done.stderr.startswith("error: policy=nosuch: unknown; allowed: ")
    assert (done.stderr.count("\n"), done.returncode) == (1, 2)


@pytest.mark.parametrize("room", ["traces", "policies", "sim", "real"])
def test_python_m_beside_all_others(installed: Installed, room: str, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, [name for name in OURS if name != room], "package")
    done = installed.module(room, "--help", cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 5


def test_the_child_processes_of_python_m(editable: Installed, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, [name for name in OURS if name != "sim"], "package")
    done = editable.module("sim", "check", "on_demand", cwd=here)
    assert "hash seeds   holds" in done.stdout, done.stdout + done.stderr
    sweeps(editable.module("sim", "run", *SWEEP, "out=swept", cwd=here))


def test_an_import_beside_namespaces(installed: Installed, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, OURS, "namespace")
    code = "import sim, traces, policies.registry as r; print(sim.load.__module__, traces.__version__, r.find('lru'))"
    done = installed.code(code, cwd=here)
    assert done.stdout == f"sim.results.load {__version__} <class 'policies.lru.LRU'>\n", done.stderr


WORKER = """
import subprocess, sys
from moe_offload import ROOT, ours_first
{before}
ours_first(ROOT)
sys.exit(subprocess.run([sys.executable, "-c", "import plugin, traces; print(traces.__version__)"]).returncode)
"""


@pytest.mark.parametrize("before", ["", "sys.path.remove('')"])  # as python -c begins, and as the program does
def test_a_child_process_that_is_told_nothing(wheel: Installed, before: str, tmp_path: Path) -> None:
    here = folders_of_the_user(tmp_path, OURS, "package")
    (here / "plugin.py").write_text("")
    path = {"PYTHONPATH": str(here)} if before else {}
    done = wheel.code(WORKER.format(before=before), cwd=here, **path)
    assert done.stdout == f"{__version__}\n", done.stderr  # of ours, and the user's plug-in was found as well


def test_a_module_that_is_one_file_is_survived_as_well(wheel: Installed, tmp_path: Path) -> None:
    for name in ("traces.py", "policies.py"):
        (tmp_path / name).write_text("theirs = True\n")
    assert wheel.module("sim", "config", "policy=lru", cwd=tmp_path).returncode == 0


def test_an_unknown_part_is_one_line(wheel: Installed, tmp_path: Path) -> None:
    done = wheel.run("run", "policy=lru", cwd=tmp_path)
    assert done.stderr == "error: run: no such command; allowed: traces, policies, sim, real, --help, --version\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert wheel.run(cwd=tmp_path).stdout == wheel.run("--help", cwd=tmp_path).stdout
