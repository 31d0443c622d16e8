"""Rows of a modified model: a class of their own wherever rows are ranked, with the bounds (rules 7 and 8)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.experiment.sweep.multirun import show_grid
from sim.results import pictures
from sim.results.classes import MODIFIED, by_class, outputs
from sim.results.compare import Comparison, compare
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.table import show as show_comparison
from sim.results.finished import Found, finished
from sim.results.finished import runs as runs_of
from sim.results.report import content
from sim.results.store import read_document
from sim.results.table import show
from tests.sim.saying import edit, printed

POLICIES = ("pregated", "pregated_cached", "lru", "on_demand", "swapmoe_uniform")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modified") / "out"
    for policy in POLICIES:
        assert main(["run", f"policy={policy}", "budget=6GB", "limit=2", f"out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, dict[str, Any]]:
    found = [dict(it.result) for it in finished(out, [])]
    return {it["config"]["policy"]["name"] + "+" * bool(it["config"]["policy"].get("cache_share")): it for it in found}


@pytest.fixture(scope="module")
def found(out: Path) -> Comparison:
    return compare(out, target="tpot<=10s")


def test_a_result_says_what_it_is_and_has_the_bounds(results: dict[str, dict[str, Any]]) -> None:
    source = results["pregated"]["provenance"]
    assert (source["output"], source["lossless"], source["clairvoyant"]) == ("modified", False, False)
    assert results["lru"]["provenance"]["output"] == "lossless"
    assert results["swapmoe"]["provenance"]["output"] == "lossy"
    assert results["pregated"]["bounds"]["belady_bypass"]["bytes"] == results["lru"]["bounds"]["belady_bypass"]["bytes"]
    assert results["pregated"]["reference"] == results["lru"]["reference"]
    for name in ("pregated", "pregated+"):
        assert all(bound["gap"] >= 1 for bound in results[name]["bounds"].values())
        assert results[name]["quality"] is None
        assert "of a modified model" in results[name]["nulls"]["quality"]


def test_a_table_sets_it_apart(results: dict[str, dict[str, Any]]) -> None:
    ours, theirs = ("\n".join(printed(show, results[name], 120)) for name in ("pregated", "lru"))
    assert "\npregated, modified model " in ours
    assert "compared with such rows only" in ours
    assert "belady_bypass" in ours
    assert "modified" not in theirs


def test_nobody_is_ranked_with_a_modified_model(found: Comparison) -> None:
    assert found.baseline == "lru"
    assert set(found.pairs["policy_label"]) == {"on_demand"}
    by_label = found.cells.set_index("policy_label")
    assert list(by_label.index[by_label["output"] == MODIFIED]) == ["pregated", "pregated (cache_share=0.2)"]
    assert not by_label["lossless"][by_label["output"] != "lossless"].any()
    # Whoever is the best of a class of its own is on a front, whatever the others need.
    for _, own in by_class(found.cells):
        assert own["front"].any()
        assert own.loc[own["value"].idxmin(), "front"]
    assert found.cells[found.cells["output"] == MODIFIED]["value"].min() < by_label.loc["on_demand", "value"]
    fronts = [line for line in conclude(found) if line.startswith("Pareto front")]
    (own,) = [line for line in fronts if "pregated" in line]
    assert "of modified models" in own
    assert not any(name in own for name in ("lru", "on_demand", "swapmoe"))
    assert any("Policies of a modified model: the smallest budget" in line for line in conclude(found))
    assert (
        sum(line.startswith("Of a modified model, so not ranked") and "pregated" in line for line in limits(found)) == 1
    )


def test_against_each_other_they_are(out: Path) -> None:
    alone = compare(out, baseline="pregated")
    assert set(alone.pairs["policy_label"]) == {"pregated (cache_share=0.2)"}


def test_its_table_has_a_caption(found: Comparison) -> None:
    lines = printed(show_comparison, found, 120)
    caption = next(i for i, line in enumerate(lines) if line.startswith("policies of a modified model: another class"))
    first = next(i for i, line in enumerate(lines) if line[1:].strip().startswith("lru"))
    own = [i for i, line in enumerate(lines) if line[1:].strip().startswith("pregated") and i > first]
    assert first < caption < min(own)


def test_a_frame_says_it_and_an_old_one_is_read(out: Path, tmp_path: Path) -> None:
    runs = sim.load(out)
    assert dict(zip(runs["policy"], runs["output"], strict=True)) == {
        "pregated": MODIFIED,
        "lru": "lossless",
        "on_demand": "lossless",
        "swapmoe": "lossy",
    }
    assert set(sim.load_layers(out, runs)["output"]) == {MODIFIED, "lossless", "lossy"}
    sim.save(runs.drop(columns="output"), tmp_path / "old.parquet")
    old = sim.load(tmp_path / "old.parquet")
    assert list(outputs(old) == "lossless") == list(runs["lossless"])
    assert MODIFIED not in set(outputs(old))


def test_bounds_are_shared_with_it_and_by_it(results: dict[str, dict[str, Any]]) -> None:
    for lends, borrows in (("lru", "pregated"), ("pregated", "lru")):
        bare = {**results[borrows], "bounds": None, "reference": None, "nulls": {"bounds": "?", "reference": "?"}}
        both = runs_of([Found.of("a", results[lends]), Found.of("b", bare)])
        assert [run.result["bounds"]["belady_bypass"]["gap"] for run in both] == [
            results[name]["bounds"]["belady_bypass"]["gap"] for name in (lends, borrows)
        ]


def test_pictures_set_it_apart(out: Path, found: Comparison) -> None:
    runs = sim.load(out)
    latency = [panel.title for panel in pictures.latency.sheet(runs, cells=found.cells).panels]
    (own,) = [title for title in latency if title.startswith("Of a modified model, not ranked with the others. ")]
    assert "pregated (cache_share=0.2) (modified model): the lowest mean TPOT" in own
    (bars,) = pictures.stalls.sheet(runs, None).panels
    assert bars.title.endswith(", lossy and modified model policies apart")
    axes = pictures.stalls(runs).axes[0]
    names = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    kinds = [name.rpartition(" (")[2] if name.endswith((" (lossy)", " (modified model)")) else "" for name in names]
    assert kinds == ["", "", "lossy)", "modified model)", "modified model)"]
    places = axes.get_yticks()
    assert [b - a > 1 for a, b in pairwise(places)] == [False, True, True, False]
    rows = pictures.layers(sim.load_layers(out)).axes[0].get_yticklabels()
    assert sum("(modified model)" in label.get_text() for label in rows) == 2
    titles = [panel.title for panel in pictures.front.sheet(found.cells).panels]
    assert sum(title.startswith("Of a modified model. ") for title in titles) == 1


def test_a_report_sets_it_apart(out: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "draw", lambda found, root: [])
    page = content.build(found, out, (), "runs.csv", lambda folder, source: "again")[0].decode()
    assert "policies of a modified model: another class, not ranked with the others" in page
    assert "pregated (modified model)" in page
    assert "pregated" not in content.opening(found)


def test_a_grid_says_it(results: dict[str, dict[str, Any]]) -> None:
    said = "\n".join(printed(show_grid, [results["lru"], results["pregated"]], 120))
    assert "pregated, modified model" in said
    assert "compared with such rows only" in said
    assert "lossy" not in said


def test_a_result_of_an_earlier_version_is_lossy_or_not(out: Path, tmp_path: Path) -> None:
    folder = next(path.parent for path in sorted(out.glob("*/result.json")) if path.parent.name.startswith("swapmoe"))
    target = tmp_path / "old" / folder.name
    target.mkdir(parents=True)
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    edit(target, lambda it: it["provenance"].pop("output"))
    assert "output" not in read_document(target / "result.json")["provenance"]
    frame: pd.DataFrame = sim.load(tmp_path / "old")
    assert list(frame["output"]) == ["lossy"]
