"""What was measured is judged elsewhere: logs are replayed, cells simulated, damages told. Of a small rehearsal."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from real.cli import main
from real.evaluate.evaluation import fitted, shifted
from real.measure import bench
from real.validation.ran import load_all
from real.validation.verdict import CRITERIA, criteria
from sim.core.log import NEXT_CHUNK
from sim.prices import HardwareProfile, shipped

pytestmark = pytest.mark.ci  # the rehearsal alone takes half a minute
STEPS = "preflight,copies,layers,store,overheads,link,exact,profile"
WORDS = ["rehearse=true", "device=cpu", "threads=1", "minutes=5"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all but the long steps were rehearsed."""
    folder = tmp_path_factory.mktemp("measured") / "here"
    assert main(["measure", f"out={folder}", f"only={STEPS}", *WORDS]) == 0
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(measured, tmp_path / "copy")


def test_it_goes_on_with_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = folder / "link" / "lru-25.json"
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.name != "measure.json"}
    assert main(["measure", f"out={folder}", "only=copies,link", *WORDS]) == 0
    assert gone.exists()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "copies: done before" in capsys.readouterr().err


# The profile grows as layers are measured: a second run of a cell was then of another configuration, and the whole
# folder was refused.
def test_a_second_run_is_of_the_same_cell_whatever_was_measured_since(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = (("on_demand", "25%"),), tmp_path / "here"
    monkeypatch.setattr(bench, "TINY", replace(bench.TINY, grid=one, again=one))
    assert main(["measure", f"out={folder}", "only=store,cells", *WORDS]) == 0
    shutil.copy(measured / "profile.yaml", folder)
    assert main(["measure", f"out={folder}", "only=again", *WORDS]) == 0
    ((_, (_, runs)),) = load_all(folder / "cells", folder / "traces").items()
    assert len(runs) == 2


# With a machine's layers measured after its overheads, these were fitted to a roofline and added to the layers.
def test_overheads_are_fitted_to_the_machine_as_it_is_known_now(measured: Path) -> None:
    hardware, raw = (yaml.safe_load((measured / name).read_text()) for name in ("profile.yaml", "overheads.json"))
    wanted = fitted(hardware, raw, measured / "traces", "mine")
    for row in raw["samples"]:
        row["config"]["hardware"] = dict(shipped("hardware", "h200"))
    assert fitted(hardware, raw, measured / "traces", "mine") == wanted


def test_the_page_says_what_was_found(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(measured), f"out={tmp_path}/out", "name=mine"]) == 0
    shown = capsys.readouterr().out
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| --" in page
    assert not any(mark in shown for mark in ("| --", "**", "# "))  # the terminal gets what the Markdown means
    assert max(map(len, shown.splitlines())) <= 120
    assert "3 of 3 logs give the device's decisions again" in " ".join(shown.split())
    assert "3 of 3 logs give the device's decisions again" in page
    assert "outputs are equal to the bit" in page
    found = json.loads((tmp_path / "out" / "tiny-moe_link.json").read_text())
    assert found["criteria"] == criteria(found["cells"])
    for row in found["cells"]:
        assert row["replay"]["agrees"]
        assert row["replay"]["accounts_agree"]
        assert row["errors"]["hit_complete"]["error"] == 0
        assert row["expected"] > 0
        assert row["link"]["gb_per_s"] > 0
    profile = HardwareProfile.from_dict(yaml.safe_load((tmp_path / "out" / "mine.yaml").read_text()))
    assert profile.name == "mine"
    assert profile.runtime is not None
    assert (tmp_path / "out" / "tiny-moe_link.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_host_computes_is_measured_and_judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "TINY", replace(bench.TINY, host_grid=(("static_split", "25%"),)))
    assert main(["measure", f"out={folder}", "only=host", *WORDS]) == 0
    assert main(["evaluate", str(folder), f"out={tmp_path}/out"]) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "4 of 4 logs give the device's decisions again" in page
    assert "With most experts on the host, from the same without: largest difference 0, KL 0 nats a token" in page
    (row,) = json.loads((tmp_path / "out" / "tiny-moe_host.json").read_text())["cells"]
    assert row["policy"]["name"] == "static_split"
    assert row["device"]["totals"]["host_lookups"] == row["simulated"]["totals"]["host_lookups"] > 0
    assert [it["holds"] for it in criteria([row]) if it["name"] in ("hits_worst", "host_worst")] == [True] * 2


def test_requests_that_arrive_are_measured_and_judged(folder: Path, tmp_path: Path) -> None:
    assert main(["measure", f"out={folder}", "only=arrivals", *WORDS]) == 0
    assert main(["evaluate", str(folder), f"out={tmp_path}/out"]) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "4 of 4 logs give the device's decisions again" in page
    assert "| lru | 50% | poisson 20/s, fcfs | 2 |" in page
    (row,) = json.loads((tmp_path / "out" / "tiny-moe_arrivals.json").read_text())["cells"]
    assert row["errors"]["hit_complete"]["error"] == 0
    assert row["expected"] is None
    assert [it["holds"] for it in criteria([row]) if it["cells"]] == [True], "its times are not judged"
    assert row["serving"]["figures"]["ttft"]["device"] > row["serving"]["figures"]["queueing"]["device"] > 0


def test_a_log_that_decides_otherwise_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "link" / "lru-25.npz"
    log = np.load(path)["log"]
    np.savez_compressed(path, log=np.append(log, NEXT_CHUNK))
    assert main(["evaluate", str(folder), "format=json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["holds"] is False
    assert "lru at 25%: replay DIFFERS" in printed.err


@pytest.mark.parametrize("change", [lambda log: log[:-1], lambda log: np.arange(50)])
def test_a_log_that_cannot_be_replayed_is_told_of_and_the_others_are_judged(
    change: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "link" / "lru-25.npz"
    np.savez_compressed(path, log=change(np.load(path)["log"]))
    for name in ("lru-25", "on_demand-25"):  # the policies' own time is of these
        for kind in ("json", "npz"):
            shutil.copy(folder / "link" / f"{name}.{kind}", folder / "cells")
    cell = folder / "cells" / "lru-25.json"
    edit(cell, config=json.loads(cell.read_text())["config"] | {"budget": "50%"})
    assert main(["evaluate", str(folder)]) == 1
    printed = capsys.readouterr()
    for where in ("lru at 25%", "lru at 50%"):
        assert f"not judged: {where}: the log cannot be replayed (" in page_of(folder)
    assert "3 of 3 logs give the device's decisions again" in page_of(folder)
    assert "own time is left out: the log cannot be replayed (" in printed.err


def page_of(folder: Path) -> str:
    return (folder / "evaluated" / "README.md").read_text()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def ran(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a cell of the link has left."""
    found = json.loads((folder / "link" / "lru-25.json").read_text())
    change(found["ran"])
    edit(folder / "link" / "lru-25.json", **found)


def hit_more(left: dict[str, Any]) -> None:
    left["document"]["hit_rate"]["complete"] += 0.01


# "0 of 0 logs ... Every criterion holds.", and 0: a machine that failed its preflight had passed.
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda it: shutil.rmtree(it / "link"), "nothing can be judged"),
        (lambda it: ran(it, lambda left: left.update(trace="another")), r"\*\*1 cells cannot be judged\*\*"),
        (lambda it: edit(it / "exact.json", equal=False), r"outputs are \*\*not\*\* equal to the bit"),
        (lambda it: ran(it, hit_more), r"worst error of the complete hit rate .*\*\*fails\*\*"),
    ],
    ids=["no cell", "of another trace", "outputs", "a criterion"],
)
def test_what_does_not_hold_is_status_1(damage: Any, said: str, folder: Path) -> None:
    damage(folder)
    assert main(["evaluate", str(folder)]) == 1
    assert re.search(said, page_of(folder))
    assert "Every criterion that could be judged holds" not in page_of(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "measure.json").unlink(), ("measure.json", "No such file")),
        (lambda folder: (folder / "link" / "lru-25.npz").unlink(), ("lru-25.npz", "No such file")),
        (lambda folder: (folder / "link" / "lru-25.npz").write_bytes(b"PK"), ("lru-25.json", "measure it again")),
        (lambda folder: (folder / "link" / "lru-25.json").write_text("[]"), ("lru-25.json", "measure it again")),
        (lambda folder: (folder / "exact.json").write_text("{"), ("exact.json", "not JSON")),
        (lambda folder: (folder / "exact.json").write_text("{}"), ("exact.json", "equal", "remove the file")),
        (lambda folder: (folder / "copies.json").write_text('"x"'), ("copies.json", "curves", "remove the file")),
        (lambda folder: (folder / "passes.json").write_text("null"), ("passes.json", "remove the file")),
        (lambda folder: (folder / "profile.yaml").write_text("{}"), ("name",)),
        (lambda folder: edit(folder / "measure.json", steps={"copies": 1}), ("measure.json", "not a record")),
        (lambda folder: edit(folder / "measure.json", about=[]), ("measure.json", "not a record")),
        (lambda folder: edit(folder / "measure.json", about={"device": "x"}), ("measure.json", "torch", "size")),
        (lambda folder: (folder / "overheads.json").write_text('{"samples": [{}]}'), ("overheads.json",)),
        (lambda folder: (folder / "profile.yaml").write_text("[1"), ("profile.yaml", "YAML")),
    ],
)
def test_what_is_damaged_is_told_in_one_line(
    folder: Path, tmp_path: Path, damage: Any, said: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    assert main(["evaluate", str(folder), f"out={tmp_path}/out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(word in error for word in said), error
    assert not (tmp_path / "out").exists()


def test_quartiles_move_the_prices_both_ways(measured: Path) -> None:
    hardware = yaml.safe_load((measured / "profile.yaml").read_text())
    fast, middle, slow = (
        HardwareProfile.from_dict(it).measured
        for it in (shifted(hardware, "q1_ns"), hardware, shifted(hardware, "q3_ns"))
    )
    assert fast is not None
    assert middle is not None
    assert slow is not None
    tables = [(it.copy_h2d_pinned, (it.models or {})["tiny-moe"].cpu_expert) for it in (fast, middle, slow)]
    for several in zip(*tables, strict=True):
        assert len({it.ns for it in several}) > 1
        for low, mid, high in zip(*(it.ns for it in several), strict=True):
            assert low <= mid <= high


def test_criteria_are_over_the_cells_that_they_name() -> None:
    def row(decides: str, tpot: float | None, share: float | None, hit: float, recall: float | None) -> dict[str, Any]:
        errors = {"tpot_ms": {"error": tpot}, "hit_complete": {"error": hit}, "hit_recall": {"device": recall}}
        return {"decides": decides, "errors": errors, "link": {"of_table": share}}

    rows = [row("link", -0.04, 0.9, 0.0, None), row("link", 0.2, 0.98, 0.3, 0.5), row("software", 0.9, 0.1, 0.0, None)]
    found = {it["name"]: it for it in criteria(rows)}
    assert {name: (it["cells"], it["value"], it["holds"]) for name, it in found.items()} == {
        "link_rate": (2, pytest.approx(0.94), False),
        "tpot_median": (2, pytest.approx(0.12), False),
        "tpot_worst": (2, 0.2, False),
        "hits_worst": (2, 0.0, True),
        "host_worst": (0, None, None),
        "tpot_software": (1, 0.9, False),
        "tpot_host": (0, None, None),
    }
    assert [it.name for it in CRITERIA if not it.judged] == ["tpot_software", "tpot_host"]
    assert all(it["holds"] is None and it["value"] is None for it in criteria([]))
    foreign = {it["name"]: it["judged"] for it in criteria(rows, own=False)}
    assert [name for name, judged in foreign.items() if judged] == ["hits_worst", "host_worst"]
