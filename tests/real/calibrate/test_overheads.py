"""What the runtime costs: planted overheads are found again, and stand in the profile that is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from real.calibrate import overheads
from real.cli import main
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import simulate
from sim.prices import HardwareProfile, shipped
from tests.real.validation.cases import tiny

QUICK = ["dtype=float32", "tokens=3", "repeat=1", "device=cpu", "weights=random"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[overheads.Sample]:
    """The runs of a calibration, on the device."""
    folder, _, model = tiny()
    profile, hardware = {"name": "as_traced", "dtype": None}, shipped("hardware", "a100")
    scratch = tmp_path_factory.mktemp("runs")
    return overheads.samples(model, profile, hardware, str(folder), overheads.Plan(3, 1), scratch)


@pytest.mark.parametrize("planted", [(0, 0, 0), (90_000, 0, 0), (0, 40_000, 0), (90_000, 40_000, 70_000)])
def test_planted_overheads_are_found_again(runs: list[overheads.Sample], planted: tuple[int, int, int]) -> None:
    """The device is a simulation that has them: whatever its dense part, its experts and its link cost."""
    found = overheads.fit([_as_simulated(run, planted) for run in runs])
    assert (found.layer, found.launch) == pytest.approx(planted[:2], rel=0.01, abs=5)
    assert found.copy == pytest.approx(planted[2], rel=0.02, abs=20)
    assert all(off < 0.01 for off in found.fit.values())


def test_a_device_that_is_faster_than_predicted_has_no_overheads(runs: list[overheads.Sample]) -> None:
    slow = [replace(_as_simulated(run, (0, 0, 0)), compute=run.bare // 2, stall=0) for run in runs]
    found = overheads.fit(slow)
    assert (found.layer, found.launch, found.copy) == (0, 0, 0)
    assert all(off > 0.2 for off in found.fit.values())  # and it says how far it is off


def test_what_was_run_is_counted(runs: list[overheads.Sample]) -> None:
    """Layer events: one per layer and measured pass. The tiny model has 3 layers, and K = 2."""
    by_name = {run.name: run for run in runs}
    assert by_name["decode_on_demand"].events == 3 * (1 + 3)
    assert by_name["prefill_16"].events == 3 * 3
    assert by_name["decode_batch_4"].events == 3 * (4 + 1)
    assert by_name["decode_on_demand"].launches >= 3 * 3 * 2 + 3 * 2


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_least_squares_is_exact_where_it_can_be(a: int, b: int) -> None:
    rows = [(1.0, 8.0), (1.0, 30.0), (2.0, 17.0)]
    assert overheads.least_squares(rows, [a * x + b * y for x, y in rows]) == (a, b)


@given(st.integers(0, 10**7))
def test_the_smallest_is_found(wanted: int) -> None:
    found = overheads.smallest(lambda x: 3 * x, wanted, 10**8)
    assert 3 * found >= wanted
    assert found == 0 or 3 * (found - 1 - found // 900) <= wanted


def test_the_smallest_stops_where_nothing_rises() -> None:
    assert overheads.smallest(lambda x: 1, 2, 5000) == 5000


def test_what_is_charged_for_decisions_stays_in_the_profile() -> None:
    hardware = dict(shipped("hardware", "a100"))
    own = {"fmoe": {"prefill": 5000, "decode": 1700}}
    for policy_us in ({}, own):
        given = hardware | {"software": dict(hardware["software"]) | {"policy_us": policy_us}}
        put = HardwareProfile.from_dict(overheads.put_in(given, 80_000, 30_000, 100)).software
        assert (put.layer_overhead_us, float(put.copy_overhead_us)) == (80, 0.1)
        assert {name: time.ns() for name, time in put.policy_us.items()} == dict.fromkeys(
            policy_us, (5_000_000, 1_700_000)
        )


def test_a_profile_is_written_with_them_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = tiny()
    given, out = tmp_path / "a100.yaml", tmp_path / "mine.yaml"
    given.write_text(yaml.safe_dump(dict(shipped("hardware", "a100"))))
    assert main(["calibrate", f"out={out}", f"hardware={given}", f"model={folder}", *QUICK]) == 0
    written: dict[str, Any] = yaml.safe_load(out.read_text())
    profile = HardwareProfile.from_dict(written)
    assert profile.name == "mine"
    assert profile.runtime is not None
    assert profile.overheads.startswith("the runtime's own, measured ")
    assert "synthetic routing" in profile.overheads
    assert profile.software.layer_overhead_us + profile.gpu.launch_us > 0
    assert written["link"] == dict(shipped("hardware", "a100"))["link"]
    assert capsys.readouterr().out == ""
    assert main(["calibrate", f"out={out}", f"hardware={given}", f"model={folder}", *QUICK]) == 2  # it is there
    assert "yet to be written" in capsys.readouterr().err


def _as_simulated(run: overheads.Sample, planted: tuple[int, int, int]) -> overheads.Sample:
    """The sample that a device would give which is as the simulator says, with these overheads."""
    cell = make_cell(overheads.put(run.config, *planted))
    accounts = simulate(cell, make_policy(cell)).accounts
    return replace(run, compute=accounts.compute_ns, stall=sum(accounts.stall_row()))
