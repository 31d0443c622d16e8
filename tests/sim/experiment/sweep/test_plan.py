"""What a sweep says before it begins: how many cells there will be, slips, and extras that are not installed."""

from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from sim.experiment.compose import cells
from sim.experiment.sweep.multirun import progress_line
from sim.experiment.sweep.plan import make_plan
from tests.sim.saying import refused
from traces.kit.errors import UserError


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (["policy=lru,fifo", "budget=[2GB,4GB,8GB]", "seed=0,1"], 12),
        (["policy=lru", "budget=[2GB,4GB],[8GB]"], 3),
        (["policy=glob(lru*)"], 3),
        (["experiment=first_comparison"], 27),
        (["experiment=first_comparison", "policy=lru", "budget=1GB,2GB"], 2),
        (["experiment=tune_gate_ahead", "hydra.sweeper.n_trials=4"], 12),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_plan_knows_how_many_cells_there_will_be(words: list[str], n: int) -> None:
    assert make_plan(words).cells == n


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=first_comparison,budget_sweep"], r"experiment=first_comparison, .*: one preset at a time"),
        (["experiment=tune_gate_ahead", "seed=0,1"], r"seed=0,1: .* allowed: a list, seed=\[0,1\], to average over"),
        (["experiment=tune_gate_ahead", "budget=2GB,8GB"], r"budget=2GB,8GB: Optuna would choose the fastest"),
        (["experiment=tune_gate_ahead", "measure=test,validation"], r"measure=test,validation: .* allowed: one value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_be_chosen_by_mistake_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(words)


def test_lists_are_for_axes() -> None:
    assert [c["seed"] for c in cells({"seed": [0, 1], "budget": "8GB"})] == [0, 1]
    with pytest.raises(UserError, match=r"bounds=\[True\]: a list; allowed for: budget, "):
        list(cells({"bounds": [True]}))
    with pytest.raises(UserError, match=r"seed=\[\]: at least one"):
        list(cells({"seed": []}))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "budget=[2GB,4GB]"], "budget=[2GB,4GB]: several values; add -m to run each"),
        (["run", "-m", "budget=[2GB,8XB,]"], "not understood"),
        (["run", "-m", "seed=[0,x]"], "seed='x': allowed: a whole number"),
        (
            ["run", "-m", "hydra.launcher.n_jobs=2"],
            "hydra.launcher.n_jobs=2: no such key; allowed: none here; hydra/launcher=",
        ),
        (["run", "-m", "hydra/launcher=joblib", "hydra.launcher.jobs=2"], "jobs=2: no such key; allowed: n_jobs, "),
        (["run", "-m", "experiment=budget_sweep", "colour=1"], "error: colour=1: no such key; allowed: policy, "),
        (["run", "-m", "experiment=nosuch"], "experiment=nosuch: unknown; allowed: ablation_fmoe, "),
        (["run", "-m", "hydra/launcher=nosuch"], "hydra/launcher=nosuch: unknown; allowed: basic, joblib, ray"),
        (["run", "-m", "hydra/sweeper=nosuch"], "hydra/sweeper=nosuch: unknown; allowed: basic, optuna"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_a_sweep(words: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert named in refused([*words, f"out={tmp_path / 'out'}"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "word", "extra"),
    [
        ("", "hydra/launcher=ray", "ray"),
        ("", "hydra/launcher=submitit_slurm", "submitit"),
        ("", "hydra/sweeper=optuna", "optuna"),
        ("experiment=tune_fmoe", "hydra/sweeper=optuna", "optuna"),
    ],
)
def test_what_is_not_installed_says_which_extra(
    given: str, word: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group, _, name = word.removeprefix("hydra/").partition("=")
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group], f"{name}.yaml", raising=False)
    said = refused(["run", "-m", given or word], capsys)
    assert said.startswith(f"error: {given}: {word}" if given else f"error: {word}")
    assert f"{word}: not installed; pip install 'moe-offload-workbench[{extra}]'" in said


def test_progress_is_one_line() -> None:
    assert progress_line(0, 0, 60, 5.0) == "cells 0 of 60"
    assert progress_line(12, 1, 60, 50.0) == "cells 12 of 60, 1 failed, about 3:20 left"
    assert progress_line(1, 0, 1001, 5.0) == "cells 1 of 1001, about 1:23:20 left"
