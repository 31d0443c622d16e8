"""Where the time goes beyond the bound: it adds up, and evictions are judged as one does by hand."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from policies.bounds.future import Clairvoyant
from sim.cli import main
from sim.experiment.bounds import future_of
from sim.experiment.cell import Cell, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.compose import read_config
from sim.experiment.evictions import Evictions, Watch
from sim.experiment.run import run_config
from sim.results.gap import PARTS, PATH, gap_of_bounds, parts_of
from sim.results.pictures import EmptyPictureError, gap
from tests.sim.saying import refused
from tests.sim.small_trace import SIZE, Plan, config, one_layer, write


def watched(cell: Cell, name: str | None = None) -> Evictions:
    policy, future = make_policy(cell, name), future_of(cell, warmup=True)
    if isinstance(policy, Clairvoyant):
        policy.foresee(future)
    core = make_core(cell, policy)
    watch = Watch(core, future)
    make_machine(cell, core).run(passes_of(cell, cell.selection.warmup), passes_of(cell, cell.selection.measured))
    return watch.found


def test_by_hand(tmp_path: Path) -> None:
    """Two slots for 0, 1, 2, 0, 1: LRU evicts 0 for 2 and 1 for 0, each an event too early; 2 never comes back."""
    one_layer(tmp_path / "t", [Plan((1,), 4)], [0, 1, 2, 0, 1])
    cell = make_cell(config(tmp_path / "t", 2 * SIZE))
    found = watched(cell).document()
    assert {key: found[key] for key in ("evictions", "worse", "regret_events")} == {
        "evictions": 3,
        "worse": 2,
        "regret_events": 2,
    }
    assert found["by_phase"]["prefill"]["evictions"] == 0
    assert found["by_age"]["2-3"]["regret_events"] == 2
    assert found["by_layer"] == [{"evictions": 3, "worse": 2, "regret_events": 2}]
    forced = watched(cell, "belady_forced").document()
    assert (forced["evictions"], forced["regret_events"]) == (2, 0)


@pytest.mark.ci
def test_belady_regrets_nothing_and_kinds_add_up() -> None:
    cell = make_cell(read_config(["policy=lfu", "limit=1", "budget=25%", "warmup=1"]))
    forced = watched(cell, "belady_forced")
    assert forced.whole.evictions > 0
    assert forced.whole.worse == forced.whole.regret_events == 0
    found = watched(cell)
    assert found.whole.regret_events > found.whole.worse > 0
    for kinds in (found.by_phase, found.by_layer, list(found.by_age.values())):
        whole = found.whole.plain()
        assert whole == {key: sum(it.plain()[key] for it in kinds) for key in whole}
    alone = watched(replace(cell, selection=replace(cell.selection, warmup=())))
    assert alone.whole.evictions != found.whole.evictions  # what is warm is not counted, and counts


NS = st.integers(0, 10**9)


@given(NS, st.lists(NS, min_size=3, max_size=3), NS, st.tuples(NS, NS), NS)
def test_parts_add_up_to_the_gap(wall: int, walls: list[int], bound: int, nbytes: tuple[int, int], link: int) -> None:
    parts = parts_of(wall, walls, bound, max(nbytes), min(nbytes), link)
    assert list(parts) == list(PARTS)
    assert sum(parts.values()) == wall - bound
    assert 0 <= parts["admission"] <= max(0, walls[-1] - bound)


def test_parts_by_hand() -> None:
    assert parts_of(100, [60, 55, 40], 30, 12, 10, 20) == {
        "victims": 40,
        "one_layer": 5,
        "further": 15,
        "admission": 4,  # two bytes more, of ten that take 20 ns
        "rest": 6,
    }


def test_a_row_with_the_hosts_help_is_set_against_the_bound_that_knows_the_host() -> None:
    rows = {name: {"wall_ns": 60, "link_bytes": 12} for name in PATH}
    bounds = {
        "belady_bypass": {"bytes": 10},
        "time_lower_bound": {"ns": 40, "link_ns": 20},
        "time_lower_bound_with_host": {"ns": 25, "link_ns": 20},
        "reference": rows,
    }
    alone, beside = (gap_of_bounds(50, bounds, with_host=it) for it in (False, True))
    assert (sum(alone.values()), sum(beside.values())) == (10, 25)
    assert (alone["admission"], beside["admission"]) == (4, 0)  # what stays on the host need not be copied


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with bounds, the same policy at another budget without, and one that says that it is lossy."""
    out, path = tmp_path_factory.mktemp("regret"), tmp_path_factory.mktemp("routing") / "trace"
    ids = np.argsort(np.random.default_rng(5).random((40, 3, 8)), axis=-1)[..., :2].astype(np.uint8)
    write(path, [Plan((4,), 16), Plan((4,), 16)], ids, n_experts=8)
    given = replace(config(path, 7 * SIZE), policy={"name": "lfu"})
    run_config(replace(given, bounds=True), out)
    run_config(replace(given, budget=12 * SIZE), out)
    lossy = run_config(replace(given, budget=9 * SIZE), out).folder / "result.json"
    told = json.loads(lossy.read_text())
    told["provenance"] |= {"lossless": False, "output": "lossy"}
    lossy.write_text(json.dumps(told))
    return out


def test_the_command_adds_up_and_keeps_what_it_found(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["regret", str(folder), "format=json", f"picture={folder / 'gap.svg'}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["rows"]) == 2
    for row in told["rows"]:
        assert sum(row["gap_ns"].values()) == row["wall_ns"] - row["bound_ns"] > 0
        result = json.loads((folder / row["folder"] / "result.json").read_text())
        assert result["totals"]["wall_ns"] == row["wall_ns"]
        if result["reference"]:
            walls = [result["reference"][name]["wall_ns"] for name in PATH]
            assert row["gap_ns"]["victims"] == row["wall_ns"] - walls[0]
            assert row["gap_ns"]["one_layer"] == walls[0] - walls[1]
            assert row["gap_ns"]["further"] == walls[1] - walls[2]
    assert any("is not lossless, and has no bound" in line for line in told["left_out"])
    assert "victim ranking" in (folder / "gap.svg").read_text()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("regret-*/regret.json")}
    assert len(kept) == 2
    assert main(["regret", str(folder), "policy=lfu"]) == 0
    assert "victim ranking" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.glob("regret-*/regret.json")} == kept
    # The code that judges evictions is in no run's address.
    monkeypatch.setattr("sim.experiment.regrets.digest_of", lambda module: f"another {module}")
    assert main(["regret", str(folder), "policy=lfu"]) == 0
    assert len(list(folder.glob("regret-*/regret.json"))) == 4


def test_a_notebook_has_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regret", str(folder), "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = sim.regret(folder)
    assert found.document == told
    assert main(["regret", str(folder)]) == 0
    assert str(found).split() == capsys.readouterr().out.split()
    parts = found.frame[[f"gap_{name}" for name in PARTS]].sum(axis=1)
    assert np.allclose(parts, found.frame["ms_per_token"] - found.frame["bound_ms_per_token"], rtol=1e-12)
    for row, own in zip(told["rows"], found.frame.to_dict("records"), strict=True):
        kinds = found.evictions.query("budget_bytes == @row['budget_bytes']").groupby("by")["evictions"].sum()
        assert kinds.to_dict() == dict.fromkeys(("age", "layer", "phase"), row["evictions"]["evictions"])
        assert own["evictions"] == row["evictions"]["evictions"]
    one = sim.regret(folder, only=[told["rows"][0]["folder"]])
    assert one.frame["folder"].tolist() == [told["rows"][0]["folder"]]
    assert found.picture()._repr_png_().startswith(b"\x89PNG")


def test_rows_are_of_one_machine_and_the_picture_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_layer(tmp_path / "t", [Plan((1,), 4), Plan((1,), 4)], [0, 1, 2, 0, 1] * 2)
    given = replace(config(tmp_path / "t", 2 * SIZE), bounds=True)
    for limit in (1, 2):
        run_config(replace(given, limit=limit), tmp_path / "out")
    said = refused(["regret", str(tmp_path / "out")], capsys)
    assert "limit is 1 (1 run), null (1 run)" in said
    assert not list((tmp_path / "out").glob("regret-*")), "refused before anything was replayed"
    command = shlex.split(said[said.index("python -m sim regret") :])[3:]
    assert main([*command, f"picture={tmp_path / 'gap.svg'}"]) == 0
    drawn = (tmp_path / "gap.svg").read_text()
    assert "simulated on by_hand" in drawn
    assert "of lru" in drawn  # what it finds, with the budget


def test_mistakes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not lossless" in refused(["regret", str(folder), f"budget={9 * SIZE}"], capsys)
    assert "polcy=lfu: not understood" in refused(["regret", str(folder), "polcy=lfu"], capsys)
    assert "picture=" in refused(["regret", str(folder), "picture=gap.pdf"], capsys)
    assert str(tmp_path) in refused(["regret", str(tmp_path)], capsys)


def test_the_picture_says_what_the_most_is_and_draws_gains_to_the_left() -> None:
    parts = {"victims": -2.0, "one_layer": 1.0, "further": 5.0, "admission": 0.0, "rest": 1.0}
    frame = pd.DataFrame(
        [{"policy_label": "lfu", "lossless": True, "budget_bytes": 10**9, **{f"gap_{k}": v for k, v in parts.items()}}]
    )
    (panel,) = gap.sheet(frame).panels
    assert panel.title == "1 GB: of lfu's 5.00 ms beyond the bound 100 % is prefetch further ahead"
    (axes,) = gap(frame).axes
    boxes = {bars.get_label(): bars.patches[0].get_bbox() for bars in axes.containers}
    assert sorted((boxes["victim ranking"].x0, boxes["victim ranking"].x1)) == [-2, 0]
    assert sorted((boxes["the rest"].x0, boxes["the rest"].x1)) == [6, 7]
    with pytest.raises(EmptyPictureError):
        gap(frame.iloc[:0])


def test_rows_of_another_bound_have_a_panel_of_their_own() -> None:
    parts = {f"gap_{name}": 1.0 for name in PARTS}
    rows = [("lru", 10, False), ("fiddler", 10, True), ("lfu", 10, False), ("lru", 20, False)]
    frame = pd.DataFrame(
        {"policy_label": name, "lossless": True, "budget_bytes": budget * 10**8, "hosted": with_host, **parts}
        for name, budget, with_host in rows
    )
    titles = [panel.title.partition(" of ")[0] for panel in gap.sheet(frame).panels]
    assert titles == ["1 GB:", "1 GB, host compute:", "2 GB:"]
    assert [len(axes.get_yticks()) for axes in gap(frame).axes] == [2, 1, 1]
