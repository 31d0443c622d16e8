"""The outputs of fitted predictors: shown no earlier than their layer, to who declares them; part of the cell's key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trace import Plan, config, one_layer, write

from policies import registry
from policies.api import LayerEvent, Predictor, Setup
from policies.lru import LRU
from sim.cell import Cell, Predicted, make_cell
from sim.signals import TraceSignals
from traces import Trace
from traces.errors import UserError

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
    assert predictor.facts == {"recall": 0.8}
    assert set(setup.predictors) == {"mlp"}
    with pytest.raises(TypeError):
        predictor.facts["recall"] = 1.0  # type: ignore[index]
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


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"reader": Reader})
    cell = make_cell(config(one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 2]), 100, policy="reader"))
    assert cell.predicted == {}
    return with_predicted(cell, mlp="1", gru="2")


def with_predicted(cell: Cell, **hashes: str) -> Cell:
    ids = np.array([[[3]], [[2]], [[1]]], np.uint8)
    return replace(cell, predicted={name: Predicted(Predictor(name, 1, 1), ids, sha) for name, sha in hashes.items()})


def test_a_cell_shows_a_policy_what_it_declares(cell: Cell) -> None:
    policy: Any = cell.policy()
    cell.machine(cell.core(policy)).run([], cell.passes(cell.selection.measured))
    assert policy.read == [[3], [2], [1]]
    with pytest.raises(UserError, match=r"policy=reader needs the predictor mlp.*there are: gru$"):
        with_predicted(cell, gru="2").policy()
    with pytest.raises(UserError, match=r"there are: none$"):
        with_predicted(cell).policy()


def test_what_is_declared_is_part_of_the_key_and_nothing_else(cell: Cell) -> None:
    assert cell.resolved()["predictors"] == {"mlp": "1"}
    assert with_predicted(cell, mlp="3", gru="2").key() != cell.key()
    assert with_predicted(cell, mlp="1", gru="3").key() == with_predicted(cell, mlp="1").key() == cell.key()
    other = replace(cell, config=replace(cell.config, policy={"name": "reader", "which": "gru"}))
    assert other.resolved()["predictors"] == {"gru": "2"}
    assert other.key() != cell.key()
    plain = replace(cell, config=replace(cell.config, policy={"name": "lru", "scope": "global"}))
    assert plain.resolved()["predictors"] == {}
