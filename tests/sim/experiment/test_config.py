"""Configurations that are written and read again: what runs where Hydra is not installed is the same."""

import json
from pathlib import Path

import pytest

from sim.cli import main
from sim.core.log import replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.experiment.compose import read_config
from sim.experiment.config import dump_configs, load_config, load_configs
from sim.experiment.provenance import identify
from sim.experiment.run import simulate
from sim.experiment.sweep.plan import read_grid
from tests.sim.saying import refused
from tests.sim.small_trace import Plan, config, one_layer
from traces.kit.errors import UserError
from traces.kit.units import parse_bytes


@pytest.mark.ci
def test_the_grid_of_an_experiment_is_what_its_sweep_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "experiment=first_comparison", "limit=1", "bounds=false", "budget=[2GB,4GB]", "policy=glob(l*u)"]
    assert main(["run", *words, f"out={tmp_path}", "format=json"]) == 0
    ran = [
        (d["config"]["policy"]["name"], d["memory"]["budget_bytes"])
        for d in map(json.loads, capsys.readouterr().out.splitlines())
    ]
    assert main(["config", *words]) == 0
    (tmp_path / "grid.yaml").write_text(capsys.readouterr().out)
    listed = load_configs(tmp_path / "grid.yaml")
    assert [(it.policy["name"], parse_bytes(str(it.budget))) for it in listed] == ran
    assert len(ran) == 6
    assert len(read_grid(["experiment=first_comparison"])) == 27, "what the preset itself sweeps"


def test_what_is_written_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "-m", "policy=lru,fmoe", "budget=25%,8GB"]) == 0
    (tmp_path / "grid.yaml").write_text(capsys.readouterr().out)
    assert load_configs(tmp_path / "grid.yaml") == read_grid(["policy=lru,fmoe", "budget=25%,8GB"])
    assert main(["config", "policy=lru", "chunks=3"]) == 0
    (tmp_path / "one.yaml").write_text(capsys.readouterr().out)
    one = read_config(["policy=lru", "chunks=3"])
    assert load_config(tmp_path / "one.yaml") == one
    assert load_configs(tmp_path / "one.yaml") == [one]
    assert identify(make_cell(load_config(tmp_path / "one.yaml")), ()) == identify(make_cell(one), ())


def test_one_configuration_is_wanted_where_one_is_run(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(dump_configs(read_grid(["seed=1,2"])))
    with pytest.raises(UserError, match="holds 2 configurations; allowed here: one"):
        load_config(tmp_path / "two.yaml")


@pytest.mark.parametrize("text", ["", "---\n---\n", "- a\n", "{a: 1", "policy: {name: lru}\n---\n5\n"])
def test_what_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config=.*x\.yaml"):
        load_configs(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["policy=lru,fifo"],
        ["-m", "policy=nosuch,lru"],
        ["experiment=first_comparison", "budget=2GB"],
        ["-m", "experiment=tune_fmoe"],
    ],
)
def test_a_mistake_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(["config", *words], capsys)


def test_a_log_tells_where_the_window_begins(tmp_path: Path) -> None:
    """Its replay counts what the run counted, and not the warm-up."""
    trace = one_layer(tmp_path / "t", [Plan(decode=2), Plan(decode=3)], [0, 1, 0, 2, 3, 0, 1])
    cell = make_cell(config(trace, 24, warmup=1))
    outcome = simulate(cell, make_policy(cell), record=True)
    core = make_core(cell, make_policy(cell))
    assert replay(outcome.core.log, core) == outcome.core.digest()  # type: ignore[attr-defined]
    again = core.finish(core.accounts.start_ns)
    assert again.hits == outcome.accounts.hits
    assert again.demand_bytes == outcome.accounts.demand_bytes > 0
    assert core.accounts.start_ns == outcome.accounts.start_ns > 0
