"""The API is the command line: the same cells, the same stores, the same tables, the same mistakes."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
import traces
from sim.api.words import grid_words, run_words
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.run import run as run_cell
from sim.results.compare import compare
from sim.results.compare.table import show as show_compared
from sim.results.table import show
from traces.kit.telling import stdout_console

Keys = Mapping[str, Any]


def words(keys: Keys) -> list[str]:
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in keys.items()]


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]


def test_it_reads_what_the_command_line_left(tiny: Keys, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_cell("policy=lru", *words(tiny), out=out)
    found = sim.run(policy="lru", out=out, **tiny)
    assert (found.folder, found.cached) == (left.folder, True)
    show(left.document, stdout_console())
    assert str(found).splitlines() == printed(capsys)
    assert "<pre" in found._repr_html_()
    assert repr(found) == str(found)
    assert found.frame["folder"].item() == left.folder.name
    assert list(found.frame) == list(sim.load(out))
    assert len(found.requests) == found.document["totals"]["requests"] == 8
    assert set(found.layers["layer"]) == {0, 1}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"policy": {"name": "lru", "scope": "layer"}}, ["policy=lru", "policy.scope=layer"]),
        ({"hardware.gpus": 2}, ["hardware.gpus=2"]),
        ({"hardware": {"link": {"h2d_gb_per_s": 7.5}}}, ["hardware.link.h2d_gb_per_s=7.5"]),
        ({"workload": {"batch": np.int64(2)}}, ["workload.batch=2"]),
        ({"limit": None, "log": True}, ["limit=null", "log=true"]),
    ],
)
def test_values_say_what_words_say(keys: dict[str, Any], said: list[str]) -> None:
    assert run_words((), keys) == tuple(said)
    assert list(grid_words((), {**keys, "seed": [0, 1]})) == [(*said, "seed=0,1")]


def test_values_of_a_grid_are_told_apart() -> None:
    several = {"policy": ["lru", {"name": "lru", "scope": "layer"}], "trace": ["a,b", "c"], "limit": [None, 1]}
    several["seed"] = np.arange(2)
    rest = ("trace='a,b',c", "limit=null,1", "seed=0,1")
    assert list(grid_words((), several)) == [(*rest, "policy=lru"), (*rest, "policy=lru", "policy.scope=layer")]


def test_a_sweep_is_a_grid(tiny: Keys, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["on_demand", {"name": "lru", "scope": "layer"}, {"name": "lru", "scope": "global"}]
    found = sim.sweep(policy=policies, out=out, **tiny)
    assert [run.document["config"]["policy"].get("scope") for run in found] == [None, "layer", "global"]
    assert len(found.frame) == 3
    assert len(found[:2].frame) == 2
    compared = found.compare(baseline="on_demand")
    capsys.readouterr()
    show_compared(compare(out, baseline="on_demand", only=[run.folder.name for run in found]), stdout_console())
    assert str(compared).splitlines() == printed(capsys)
    assert compared.conclusions
    assert any(line.startswith("lru was run in 2 settings on these 8 requests") for line in compared.limits)
    assert len(compared.frame) == 3
    assert compared.document["settings"] == {"lru": 2, "on_demand": 1}


def test_a_cell_that_fails_does_not_stop_the_others(tiny: Keys, out: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 cell failed: budget=1: too small"):
        found = sim.sweep(policy="lru", out=out, **{**tiny, "budget": ["1B", "50%"]})
    assert len(found) == len(found.failed) == 1
    assert "failed: budget=1" in str(found)


def test_a_timeline_is_kept_with_a_run_that_decides_the_same(tiny: Keys, out: Path, tmp_path: Path) -> None:
    found = sim.run(policy="lru", out=out, **tiny)
    events = json.loads(found.timeline(tmp_path / "new" / "one.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) > 50
    again = sim.run(policy="lru", out=out, timeline=True, **tiny)
    assert again.cached
    assert again.frame["decision_digest"].item() == found.frame["decision_digest"].item()
    with pytest.raises(sim.UserError, match="a file is wanted"):
        found.timeline(tmp_path)
    with pytest.raises(sim.UserError, match=r"only=\['lru'\]: no run lies there"):
        sim.compare(out, only=["lru"])


def test_bounds_are_those_of_the_results(tiny: Keys, out: Path) -> None:
    found = sim.run(policy="lru", out=out, **{**tiny, "bounds": True}).document["bounds"]
    row = sim.bounds(**{**tiny, "budget": ["25%", "50%"]}).iloc[1]
    words = {key: value for key, value in tiny.items() if key != "budget"}
    assert sim.bounds("budget=50%", **words).iloc[0].equals(row.rename(0))
    usual = read_config(["policy=lru"]).budget  # that of a run that is told none
    assert sim.bounds(**words).equals(sim.bounds(**words, budget=usual))
    assert sim.bounds(**words)["budget_bytes"].item() != row["budget_bytes"]
    assert row["bound_time_ms"] == found["time_lower_bound"]["wall_ms"]
    assert row["bound_ms_per_token"] == found["time_lower_bound"]["ms_per_token"]
    assert row["bound_bytes"] == found["belady_bypass"]["bytes"]


def test_passes_demand_what_the_trace_chose(tiny: Keys) -> None:
    trace = traces.open(tiny["trace"])
    cell = make_cell(read_config(["policy=lru", *words(tiny)]))
    demanded = {int(x) % trace.E for one in sim.passes(**tiny) for x in one.demand[1]}
    rows = [trace.expert_ids[trace.rows_of(request), 1] for request in cell.selection.measured]
    assert demanded == set(np.concatenate(rows).ravel().tolist())
    assert len(trace.frame) == 12
    assert "<pre" in trace._repr_html_()


def test_lists_are_those_of_the_command_line() -> None:
    assert {"lru", "fmoe"} <= set(sim.policies().names)
    assert sim.hardware().frame.set_index("name").loc["rtx_4090", "gpus"] == 1
    assert str(sim.experiments()).count("\n") >= len(sim.experiments()) - 1
    assert sim.models()[:1].names == sim.models().names[:1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"polcy": "lru"}, "polcy=lru: no such key; allowed: policy,"),
        ({"policy": ["lru", "lfu"]}, "several values; allowed: one, or sim.sweep"),
        ({"budget": "8GBB"}, "budget='8GBB': not a positive size"),
        ({"policy": object()}, "of type object; allowed: a text"),
        ({"policy": int}, "allowed: a name, or a class of policies.api.Policy"),
        ({"limit": float("nan")}, "limit=nan: of type float"),
        ({"model": int}, "model=<class 'int'>: allowed: a text"),
        ({"hydra/launcher": "joblib"}, "a word of the command line"),
        ({"format": "json"}, "format=json: a word of the command line"),
        ({"hardware": {"link": [1]}}, "hardware.link=[1]: several values"),
    ],
)
def test_a_mistake_is_one_line(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(sim.UserError) as caught:
        sim.run(**{"policy": "lru", **keys}, out=tmp_path / "o")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_a_sweep_wants_values_and_runs_of_one_folder(tiny: Keys, out: Path, tmp_path: Path) -> None:
    with pytest.raises(sim.UserError, match=r"policy=\[\]: at least one value"):
        sim.sweep(policy=[], out=out, **tiny)
    one = sim.run(policy="lru", out=out, **tiny)
    with pytest.raises(sim.UserError, match="one folder of results is wanted"):
        one.compare(replace(one, folder=tmp_path / one.folder.name))
    with pytest.raises(sim.UserError, match=r"chunks=\[1, 2\]: several values"):
        sim.bounds(**{**tiny, "chunks": [1, 2]})
    with pytest.raises(sim.UserError, match="workload=online: its passes depend"):
        next(sim.passes(**tiny, workload={"name": "online", "rate": 1}))


def test_the_packages_are_typed_where_they_are_installed() -> None:
    root = Path(sim.__file__).parents[1]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("traces", "policies", "sim", "real"):
        assert "py.typed" in data[package]
        assert (root / package / "py.typed").is_file()


def test_every_public_name_is_there() -> None:
    assert [name for name in sim.__all__ if not hasattr(sim, name)] == []
    assert dir(sim) == sorted(sim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sim.nothing  # noqa: B018
