"""The presets of conf/experiment: each composes, whatever it sweeps; a slip in one names it."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

from sim import load
from sim.cli import main
from sim.experiment.sweep.plan import make_plan
from tests.sim.saying import refused
from traces.kit import conf

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
QUICK = {"first_comparison", "tune_gate_ahead", "disk_memory"}
"""Composed at every run of the suite: the first that a user meets, one that tunes, one of its own machine."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.ci) for n in EXPERIMENTS])
def test_every_experiment_composes(name: str) -> None:
    plan = make_plan([f"experiment={name}"])
    assert plan.tunes == name.startswith("tune_")
    assert plan.cells > 3


def test_a_single_cell_of_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "experiment=first_comparison", "limit=1", "bounds=false", f"out={tmp_path}"]
    assert "budget=[2GB,4GB,8GB]: several values; add -m" in refused([*words, "policy=lru"], capsys)
    assert "experiment=first_comparison: sweeps policy; add -m" in refused([*words, "budget=2GB"], capsys)
    assert main([*words, "policy=lru", "budget=2GB"]) == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hydra: {sweeper: {params: {policy: 'lru,nosuch'}}}", "policy=nosuch: unknown; allowed: "),
        ("defaults: [{override /policy: nosuch}]", "policy=nosuch: unknown; allowed: "),
        ("budget: [2GB]\nlimit: x", "limit='x': allowed: a whole number of at least 1, or null"),
        ("chunks: [1, x]", "chunks='x': allowed: a whole number"),
        ("hydra: {sweper: {params: {policy: lru}}}", "In 'experiment/slip_"),
    ],
)
def test_a_slip_in_an_experiment_names_it(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"slip_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    ConfigStore.instance().store(group="experiment", name=name, node=yaml.safe_load(text), package="_global_")
    said = refused(["run", "-m", f"experiment={name}", f"out={tmp_path / 'out'}"], capsys)
    assert said.startswith(f"error: experiment={name}: {named}")


def test_a_preset_that_is_no_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "slip.yaml").write_text("# @package _global_\nbudget: [2GB\n")
    monkeypatch.setattr(conf, "FOLDER", tmp_path / "conf")
    said = refused(["run", "-m", "experiment=slip"], capsys)
    assert said.startswith("error: experiment=slip: not YAML: while parsing a flow sequence in ")


@pytest.mark.ci
def test_tuning_prints_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "experiment=tune_gate_ahead", "hydra.sweeper.n_trials=3", "limit=1", f"out={tmp_path}"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "best: policy.distance=" in first.out
    assert "tuned on the validation requests; " in first.out
    assert set(load(tmp_path)["measure"]) == {"validation"}
    assert "9 cells in" in first.err
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "0 run, 9 read" in again.err
    assert main([*words, "measure=test"]) == 0
    assert "tuned on the measured requests, so judge it on another trace" in capsys.readouterr().out
