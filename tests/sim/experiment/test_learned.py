"""What is learned once is what is learned each time: the same decisions, from memory and from disk."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import History, Learned, Policy, Shapes
from policies.lru import LRU
from policies.registry import find as find_policy
from policies.registry import names
from sim.experiment.cell import Cell, Inputs, make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.learned import ARRAYS, Lessons
from sim.experiment.run import simulate
from sim.results.store import Store
from tests.sim.small_trace import SIZE, Plan, config, write
from traces.kit.errors import UserError

LEARNERS = ("fmoe", "moe_infinity", "static", "next_use", "swapmoe")
OWN = {"next_use": {"gates": False}, "swapmoe": {"least": 1}}
"""The trace has no gates: names are what was learned, which is one more array to keep. And budgets are small."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With train requests, router scores and embeddings."""
    rng, path = np.random.default_rng(2), tmp_path_factory.mktemp("learned") / "trace"
    rows = 48
    probs = rng.dirichlet(np.full(6, 0.5), (rows, 5)).astype(np.float16)
    ids = np.argsort(-probs.astype(float), axis=-1)[..., :2].astype(np.uint8)
    weights = np.take_along_axis(probs, ids.astype(np.intp), axis=-1)
    signals = {"router_probs": probs, "embedding": rng.standard_normal((rows, 4)).astype(np.float16)}
    signals["expert_weights"] = weights
    plans = [Plan((4,), 8, split="train"), Plan((4,), 8, split="train"), Plan((4,), 8), Plan((4,), 8)]
    write(path, plans, ids, n_experts=6, signals=signals)
    return path


def cell_of(trace: Path, policy: str, slots: int = 9, **params: Any) -> Cell:
    given = replace(config(trace, slots * SIZE), policy={"name": policy, **OWN.get(policy, {}), **params})
    return make_cell(given, Inputs())


def digest(cell: Cell, policy: Policy) -> str:
    return simulate(cell, policy).core.digest()


@pytest.mark.parametrize("name", LEARNERS)
def test_it_decides_as_one_that_has_just_learned(name: str, trace: Path, tmp_path: Path) -> None:
    for slots in (6, 9):
        cell = cell_of(trace, name, slots)
        lessons = Lessons(cell, Store(tmp_path))
        expected = digest(cell, make_policy(cell))
        assert digest(cell, make_policy(cell, recall=lessons)) == expected
        assert digest(cell, make_policy(cell, recall=lessons)) == expected  # what was read was not changed by a run
    assert len(list(tmp_path.glob("learned-*"))) == 1  # whatever the budget


def test_all_that_learn_for_all_budgets_are_tried() -> None:
    found = {name for name in names() if "learn" in vars(find_policy(name))}
    assert found == {*LEARNERS, "ktransformers"}  # which learns as static does, and needs a host
    each = {name for name in names() if find_policy(name).fit is not Policy.fit}
    assert each == {"hobbit", "hobbit_lossless"}  # whose weights are tuned in a cache of the budget's size


def test_each_job_and_each_folder_learns_once(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[Mapping[str, Any]]()
    static = find_policy("static")
    learn = static.learn

    def counted(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        calls.append(given)
        return learn(shapes, history, given)

    monkeypatch.setattr(static, "learn", staticmethod(counted))
    inputs = Inputs(keep=True)
    for slots in (5, 9):
        cell = make_cell(replace(config(trace, slots * SIZE), policy={"name": "static"}), inputs)
        make_policy(cell, recall=Lessons(cell))
    assert len(calls) == 1
    for slots in (5, 9):  # other jobs, one folder
        cell = cell_of(trace, "static", slots)
        make_policy(cell, recall=Lessons(cell, Store(tmp_path)))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("params", "train"), [({"discount": 0.6}, True), ({"scores": False}, True), ({}, False)], ids=str
)
def test_what_it_depends_on_is_its_address(params: dict[str, Any], train: bool, trace: Path, tmp_path: Path) -> None:
    cell = cell_of(trace, "next_use")
    make_policy(cell, recall=Lessons(cell, Store(tmp_path)))
    other = cell_of(trace, "next_use", **params)
    if not train:
        other = replace(other, selection=replace(other.selection, train=other.selection.train[:1]))
    make_policy(other, recall=Lessons(other, Store(tmp_path)))
    assert len(list(tmp_path.glob("learned-*"))) == 2


def test_a_folder_that_was_changed_is_named(trace: Path, tmp_path: Path) -> None:
    cell = cell_of(trace, "static")
    make_policy(cell, recall=Lessons(cell, Store(tmp_path)))
    (folder,) = tmp_path.iterdir()
    told = json.loads((folder / "learned.json").read_text())
    assert told["about"]["train"] == [0, 1]
    assert "budget" not in json.dumps(told)
    (folder / ARRAYS).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"not what learned\.json says it is; remove the folder"):
        make_policy(cell, recall=Lessons(cell, Store(tmp_path)))


class Own(LRU):
    """Somebody else's, as it was before there was ``learn``."""

    name = "own_that_fits"
    learns = True
    seen = 0

    def fit(self, history: History) -> None:
        type(self).seen = sum(step.rows for step in history.steps())


def test_a_policy_without_learn_fits_as_before(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.registry.find", lambda name, key="policy": Own)
    cell = cell_of(trace, "own_that_fits")
    make_policy(cell, recall=Lessons(cell))
    assert Own.seen == 24


@pytest.mark.ci
@pytest.mark.parametrize("name", LEARNERS)
def test_on_the_sample(name: str, tmp_path: Path) -> None:
    cell = make_cell(read_config([f"policy={name}", "limit=1", "budget=25%"]))
    expected = digest(cell, make_policy(cell))
    for _ in range(2):
        assert digest(cell, make_policy(cell, recall=Lessons(cell, Store(tmp_path)))) == expected
