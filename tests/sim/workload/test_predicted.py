"""The outputs of fitted predictors: shown no earlier than their layer, to who declares them; part of the cell's key."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent, Predictor, Setup
from policies.lru import LRU
from sim.experiment.cell import Cell, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.provenance import Identity, fitted, identify
from sim.workload.signals import TraceSignals
from tests.sim.small_trace import MACHINE, Plan, config, one_layer, write
from traces import Trace
from traces.kit.errors import UserError
from traces.writing.predicted import write_predicted

N, L, E, WIDE = 5, 3, 40, 4
IDS = np.arange(N * L * WIDE).reshape(N, L, WIDE).astype(np.uint8)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return write(tmp_path / "t", [Plan((3,), 2)], np.zeros((N, L, 1), int), n_experts=E)


@pytest.mark.parametrize("parts", [[(0, 3)], [(3, 1)], [(4, 1), (0, 2)]], ids=str)
@pytest.mark.parametrize("layer", range(L))
def test_a_gate_shows_what_is_predicted_at_its_own_layer(
    trace: Trace, parts: list[tuple[int, int]], layer: int
) -> None:
    signals = TraceSignals(trace, (), {"mlp": IDS, "other": IDS + 1}, {"mlp", "other"})
    shown = signals.shown()
    signals.enter(parts)
    with pytest.raises(RuntimeError, match=r"mlp.* before a gate"):
        shown.predicted("mlp")
    signals.layer = layer
    rows = [row for first, n in parts for row in range(first, first + n)]
    np.testing.assert_array_equal(shown.predicted("mlp"), IDS[rows, layer])
    np.testing.assert_array_equal(shown.predicted("other"), IDS[rows, layer] + 1)
    assert not np.shares_memory(shown.predicted("mlp"), IDS)
    signals.enter([(0, 1)])
    with pytest.raises(RuntimeError, match=r"mlp.* before a gate"):
        shown.predicted("mlp")


def test_a_predictor_that_was_not_declared_or_not_fitted_is_refused(trace: Trace) -> None:
    signals = TraceSignals(trace, (), {"mlp": IDS}, {"gru"})
    signals.enter([(0, 1)])
    signals.layer = 0
    with pytest.raises(RuntimeError, match=r"mlp.*declare"):
        signals.shown().predicted("mlp")
    with pytest.raises(UserError, match=r"gru.*not fitted; there are: mlp"):
        signals.shown().predicted("gru")


def test_what_a_policy_knows_of_a_predictor_cannot_be_changed() -> None:
    facts, predictors = {"recall": 0.8}, {"mlp": Predictor("mlp", 1, 2)}
    predictor, setup = Predictor("mlp", 1, 2, facts), Setup(1, 1, 1, (1,), 1, 1, None, 0, predictors)  # type: ignore[arg-type]
    facts.clear()
    predictors.clear()
    assert predictor.about == {"recall": 0.8}
    assert set(setup.predictors) == {"mlp"}
    with pytest.raises(TypeError):
        predictor.about["recall"] = 1.0  # type: ignore[index]
    with pytest.raises(TypeError):
        setup.predictors["gru"] = predictor  # type: ignore[index]


class Reader(LRU):
    """Planted: reads one predictor."""

    name = "reader"

    def __init__(self, setup: Setup, *, which: str = "mlp") -> None:
        super().__init__(setup)
        self.which = which
        self.read: list[Any] = []

    def predictors(self) -> frozenset[str]:
        return frozenset({self.which})

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.read += event.signals.predicted(self.which).tolist()


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"reader": Reader})


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    cell = make_cell(config(one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 2]), 100, policy="reader"))
    assert cell.predicted == {}
    return with_predicted(cell, mlp="1", gru="2")


def with_predicted(cell: Cell, **hashes: str) -> Cell:
    ids = np.array([[[3]], [[2]], [[1]]], np.uint8)
    outputs: Any = {name: SimpleNamespace(expert_ids=ids, sha256=sha) for name, sha in hashes.items()}
    return replace(cell, predicted=outputs)


def identity(cell: Cell) -> Identity:
    return identify(cell, make_policy(cell).predictors())


def test_a_cell_shows_a_policy_what_it_declares(cell: Cell) -> None:
    policy: Any = make_policy(cell)
    make_machine(cell, make_core(cell, policy)).run([], passes_of(cell, cell.selection.measured))
    assert policy.read == [[3], [2], [1]]
    with pytest.raises(UserError, match=r"policy=reader needs the predictor mlp.*there are: gru$"):
        make_policy(with_predicted(cell, gru="2"))
    with pytest.raises(UserError, match=r"there are: none$"):
        make_policy(with_predicted(cell))


def test_what_is_declared_is_part_of_the_key_and_nothing_else(cell: Cell) -> None:
    assert identity(cell).resolved["predictors"] == {"mlp": "1"}
    keys = [identity(with_predicted(cell, **had)).key for had in ({"mlp": "1", "gru": "3"}, {"mlp": "1"}, {"mlp": "3"})]
    assert keys[0] == keys[1] == identity(cell).key != keys[2]
    other = replace(cell, config=replace(cell.config, policy={"name": "reader", "which": "gru"}))
    assert identity(other).resolved["predictors"] == {"gru": "2"}
    assert identity(other).key != identity(cell).key
    plain = replace(cell, config=replace(cell.config, policy={"name": "lru", "scope": "global"}))
    assert identity(plain).resolved["predictors"] == {}


def test_a_policy_knows_how_many_predictions_are_made_at_a_time(tmp_path: Path) -> None:
    trace = one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 2])
    for threads in (1, 3):
        hardware = MACHINE | {"host": MACHINE["host"] | {"predictor_threads": threads}}
        assert make_cell(config(trace, 100, hardware=hardware)).setup.predictor_threads == threads


FACTS: dict[str, Any] = {"kind": "made up", "input": "routing", "stride": 1, "top_k": 2, "fit": {"seed": 5}}


def two_layers(path: Path) -> Trace:
    """Three decode rows of two layers, four experts, one each: 0 1, 2 3, 1 1."""
    return write(path, [Plan((), 3, prompt=1)], np.array([[[0], [1]], [[2], [3]], [[1], [1]]]), n_experts=4)


def test_a_cell_reads_what_lies_beside_the_trace(tmp_path: Path) -> None:
    trace = two_layers(tmp_path / "t")
    assert make_cell(config(trace, 100)).predicted == {}
    said = np.array([[[1, 2]], [[0, 3]], [[2, 0]]]).repeat(2, axis=1)
    said[:, 1] = 255
    written = write_predicted(trace, [said], name="mlp", **FACTS)
    cell = make_cell(config(trace, 100))
    found = cell.predicted["mlp"]
    np.testing.assert_array_equal(found.expert_ids, said)
    assert found.sha256 == written.sha256
    (told,) = cell.setup.predictors.values()
    assert (told.name, told.stride, told.top_k, told.about["input"]) == ("mlp", 1, 2, "routing")
    signals = TraceSignals(trace, (), {"mlp": found.expert_ids}, {"mlp"})
    signals.enter([(1, 2)])
    signals.layer = 0
    assert signals.shown().predicted("mlp").tolist() == [[0, 3], [2, 0]]


def test_a_result_names_its_predictors_and_changes_with_them(tmp_path: Path) -> None:
    trace = two_layers(tmp_path / "t")
    said = np.array([[[1, 2], [255, 255]]] * 3)
    keys = []
    for seed in (5, 6):
        write_predicted(trace, [said], name="mlp", overwrite=True, **{**FACTS, "fit": {"seed": seed}})
        cell = make_cell(config(trace, 100, policy="reader"))
        keys.append(identity(cell).key)
        facts = fitted(cell, make_policy(cell))
        assert facts["mlp"]["sha256"] == cell.predicted["mlp"].sha256 == identity(cell).resolved["predictors"]["mlp"]
        assert facts["mlp"]["fit"] == {"seed": seed}
        # Row 1 uses 3 in layer 1, the others use 1: two of six named.
        assert facts["mlp"]["accuracy"] == {"all": (1 / 3, None), "train": None, "test": None}
        lru = make_cell(config(trace, 100))
        assert fitted(lru, make_policy(lru)) == {}
    assert keys[0] != keys[1]
