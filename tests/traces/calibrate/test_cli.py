"""The command: what it writes runs in the simulator; what is wrong is refused in one line before it measures."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401 - the module is left out without it
import yaml

from sim.experiment.run import run
from sim.prices import HardwareProfile
from tests.traces.calibrate.tiny_configs import MIXTRAL, write_config
from traces.cli import main

TINY = ("device=cpu", "seconds=1", "largest=1", "max_tokens=4", "max_context=8", "threads=1")
PAIR = ("pair.copy", "pair.cpu", "pair.copy_with_cpu", "pair.cpu_with_copy")
MODEL_TABLES = {f"tiny_mixtral.{table}" for table in ("dense", "expert", "grouped", "cpu_expert", *PAIR)}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of this machine, with a tiny model."""
    folder = tmp_path_factory.mktemp("calibrated")
    model = write_config(folder / "tiny_mixtral", MIXTRAL)
    assert main(["calibrate", f"out={folder / 'here.yaml'}", f"model={model}", *TINY]) == 0
    return folder / "here.yaml"


def test_a_written_profile_is_measured_and_whole(written: Path) -> None:
    profile = HardwareProfile.from_dict(yaml.safe_load(written.read_text()))
    assert (profile.name, profile.provenance, profile.inferred) == ("here", "measured", ())
    assert yaml.safe_load(written.read_text())["software"]["policy_us"] == profile.software.policy_us == {}
    tables = profile.measured
    assert tables is not None
    assert tables.copies == "within CPU memory by one thread: no link"
    assert tables.copy_h2d_pinned.axes["bytes"] == (65536, 131072, 262144, 524288, 1048576)
    assert min(tables.copy_h2d_pinned.count) >= 5
    assert {"device", "host", "python", "torch", "transformers"} <= set(tables.machine)
    assert tables.models is not None
    assert tables.models["tiny_mixtral"].dense.axes["context"] == (0, 0)
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in written.parent.iterdir() if file.name.startswith(".")] == []
    assert tables.noise is not None
    assert {*tables.noise.spread} == {*(key for key in vars(tables) if key.startswith("copy_")), *MODEL_TABLES}
    assert (tables.noise.noisy or {}) == tables.noisy()


def test_the_simulator_takes_a_written_profile(written: Path, tmp_path: Path) -> None:
    result = run(f"hardware={written}", "policy=lru", "budget=4GB", "limit=1", out=tmp_path).document
    hardware = result["provenance"]["hardware"]
    assert hardware.pop("overheads").startswith("none of the runtime's")
    hardware.pop("noisy", None)  # as busy as this machine was
    assert hardware == {"name": "here", "provenance": "measured", "inferred": [], "changed": []}
    assert result["provenance"]["costs"]["copy"].startswith("table copy_h2d_pinned (bytes 65536 to 1048576")
    assert result["provenance"]["costs"]["experts"] == "roofline (no table of this shape; measured: tiny_mixtral)"
    assert result["bounds"]["time_lower_bound"]["gap"] >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=a.txt"], "out=a.txt: allowed: FILE.yaml"),
        (["out=nowhere/a.yaml"], "out=nowhere/a.yaml: allowed: FILE.yaml, yet to be written, in an existing folder"),
        (["out=a.yaml", "model=a,a"], "model='a,a'; allowed: names separated by commas, each once"),
        (["out=a.yaml", "model=olmoe"], "model='olmoe' is not known (no such folder, and not in the local"),
        (["out=a.yaml", "model=olmoe_1b7b"], "; did you mean olmoe_1b_7b?"),
        (["out=a.yaml", "device=tpu"], "device='tpu'"),
        (["out=a.yaml", "device=meta"], "device='meta' is not known; allowed: auto, cpu, cuda, cuda:N"),
    ],
)
def test_a_mistake_is_named_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written.read_bytes()
    assert main(["calibrate", f"out={written}"]) == 2
    assert "yet to be written" in capsys.readouterr().err
    assert written.read_bytes() == before


# The GPU machine has torch, transformers and NumPy, and none of these.
@pytest.mark.ci
def test_a_machine_without_our_other_packages_can_calibrate(tmp_path: Path) -> None:
    model = write_config(tmp_path / "tiny", MIXTRAL)
    words = ["calibrate", f"out={tmp_path / 'bare.yaml'}", f"model={model}", *TINY]
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'hydra', 'omegaconf', 'pandas', 'rich', 'simpy', 'matplotlib', 'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from traces.cli import main\n"
        f"status = main({words!r})\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('sim', 'policies')]\n"
        "raise SystemExit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no plot: matplotlib is not installed" in done.stderr
    assert "\nthe whole will take about " in done.stderr
    busy = yaml.safe_load((tmp_path / "bare.yaml").read_text())["measured"]["noise"]["noisy"] or {}
    assert all(f"\n  {name}" in done.stderr for name in busy)
    assert ("warning: noisy" in done.stderr) == bool(busy)
    assert (tmp_path / "bare.yaml").is_file()
