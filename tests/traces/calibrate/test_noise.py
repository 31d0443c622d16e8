"""Samples that lie far apart: the command warns, the profile says so, and so does every run that they price."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sim.experiment.run import run
from sim.prices import HardwareProfile
from sim.results.table import show
from traces.calibrate import cli
from traces.calibrate.tables import noise_of

Profile = dict[str, Any]


def noisy(profile: Profile, at: int = 1) -> Profile:
    """The profile, with quartiles a quarter of the median apart at one size of two tables."""
    measured = profile["measured"]
    for table in (
        *(measured[name] for name in ("copy_h2d_pinned", "copy_h2d_call")),
        measured["models"]["olmoe_1b_7b"]["pair"]["cpu_with_copy"],
    ):
        table |= {key: list(table["median_ns"]) for key in ("q1_ns", "q3_ns")}
        table["q3_ns"][at] = table["median_ns"][at] * 5 // 4
    return profile


def test_which_tables_are_noisy_and_where_the_line_is() -> None:
    table = {"median_ns": [100, 100, 100], "q1_ns": [90, 90, 100], "q3_ns": [110, 111, 100]}
    quiet = {"median_ns": [100], "q1_ns": [90], "q3_ns": [110]}
    section = {"dtype": "float32", "expert": quiet, "dense": table, "pair": {"expert_bytes": 5, "copy": table}}
    found = noise_of({"copy": table}, {"tiny": section})
    assert found == {
        "threshold": 0.2,
        "spread": {"copy": 0.21, "tiny.expert": 0.2, "tiny.dense": 0.21, "tiny.pair.copy": 0.21},
        "noisy": dict.fromkeys(("copy", "tiny.dense", "tiny.pair.copy"), "1 of 3 points"),
    }
    assert noise_of({"copy": quiet}, {})["noisy"] is None


# Profiles of before it was written have quartiles, too.
@pytest.mark.parametrize("written", [True, False])
def test_a_profile_says_which_of_its_tables_are_noisy(profile: Profile, written: bool) -> None:
    if written:
        measured = noisy(profile)["measured"]
        tables = {key: table for key, table in measured.items() if key.startswith("copy_")}
        measured["noise"] = noise_of(tables, measured["models"])
    read = HardwareProfile.from_dict(noisy(profile)).measured
    assert read is not None
    of_pair = {"olmoe_1b_7b.pair.cpu_with_copy": "1 of 2 points"}
    assert read.noisy() == dict.fromkeys(("copy_h2d_pinned", "copy_h2d_call"), "1 of 5 points") | of_pair
    assert (read.noise is not None) == written
    if read.noise is not None:
        assert read.noise.noisy == read.noisy()
        assert max(read.noise.spread.values()) == pytest.approx(0.25, abs=1e-3)


def test_a_run_says_which_of_its_prices_are_noisy(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "busy.yaml"
    words = (f"hardware={path}", "policy=lru", "budget=4GB", "limit=1", "bounds=false")
    said = []
    for mapping in (profile, noisy(copy.deepcopy(profile))):
        path.write_text(yaml.safe_dump(mapping))
        document = run(*words, out=tmp_path / "out").document
        console = Console(file=io.StringIO(), width=200)
        show(document, console)
        said.append((document["provenance"]["hardware"].get("noisy"), console.file.getvalue()))  # type: ignore[attr-defined]
    assert said[0][0] is None
    assert "noisy" not in said[0][1]
    assert said[1][0] == {"copy_h2d_pinned": "1 of 5 points"}  # the other table prices nothing
    line = "prices from noisy measurements: copy_h2d_pinned at 1 of 5 points (quartiles more than 20 % of the median"
    assert f"{line} apart)\n" in said[1][1]


def test_a_run_with_host_compute_says_which_of_the_hosts_prices_are(profile: Profile, tmp_path: Path) -> None:
    path, said = tmp_path / "busy.yaml", dict[str, Any]()
    path.write_text(yaml.safe_dump(noisy(profile)))
    for policy in ("lru", "fiddler"):
        words = (f"policy={policy}", f"hardware={path}", "budget=4GB", "limit=1", "bounds=false")
        said[policy] = run(*words, out=tmp_path / "out").document["provenance"]["hardware"]["noisy"]
    assert said["fiddler"] == said["lru"] | {"olmoe_1b_7b.pair.cpu_with_copy": "1 of 2 points"}


def test_the_command_warns(capsys: pytest.CaptureFixture[str]) -> None:
    cli._warn({"spread": {"copy_h2d_call": 0.5, "x": 0.1}, "noisy": {"copy_h2d_call": "3 of 14 points"}})
    warning, table, advice = capsys.readouterr().err.splitlines()
    assert warning == "warning: noisy, with quartiles more than 20 % of the median apart:"
    assert table.split() == ["copy_h2d_call", "3", "of", "14", "points,", "up", "to", "50", "%"]
    assert "seconds=" in advice
    cli._warn({"spread": {"x": 0.1}, "noisy": None})
    assert capsys.readouterr().err == ""
