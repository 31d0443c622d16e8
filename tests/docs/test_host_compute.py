"""README's table of host compute is that of the numbers beside it, of every lossless preset, and these are still so."""

from pathlib import Path
from types import ModuleType

import pytest

from sim.experiment.run import run
from tests.scripts import script_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def host_compute() -> ModuleType:
    return script_of("docs/host_compute.py")


def test_readme_shows_the_numbers(host_compute: ModuleType) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = host_compute.shown(host_compute.read())
    assert f"{host_compute.BEGIN}{shown}{host_compute.END}" in page


def test_every_lossless_preset_is_in_it(host_compute: ModuleType) -> None:
    numbers = host_compute.read()
    assert set(numbers["preset"]) == set(host_compute.presets())
    per_preset = len(host_compute.MACHINES) * len(host_compute.BUDGETS)
    assert (numbers.groupby("preset").size() == per_preset).all()
    assert (numbers["gap"].dropna() >= 1).all()


# A policy, a price or the engine has changed, and the table has not.
@pytest.mark.parametrize(("preset", "hardware"), [("fiddler_max", "rtx_4090"), ("lru_layer", "h200")])
def test_the_numbers_are_still_so(host_compute: ModuleType, tmp_path: Path, preset: str, hardware: str) -> None:
    words = f"policy={preset}", f"hardware={hardware}", "budget=50%", "bounds=false"
    done = run(*words, out=tmp_path).document
    numbers = host_compute.read().set_index(["preset", "hardware", "budget"])
    row = numbers.loc[preset, hardware, "50%"]
    assert done["provenance"]["decision_digest"] == row["decision_digest"]
    assert 1000 / done["throughput_tokens_per_s"] == pytest.approx(row["ms_per_token"], rel=1e-5)
