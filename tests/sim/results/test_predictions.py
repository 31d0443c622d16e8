"""Accuracy, FetchRate and GoodPred of ProMoE (SYSTEMS 2.1), counted by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import LayerEvent, Setup, Step
from policies.lru import LRU
from sim.core.accounts import Accounts
from sim.experiment.cell import make_cell
from sim.experiment.provenance import result_of
from sim.experiment.run import simulate
from sim.results.predictions import predictions
from tests.sim.small_trace import SIZE, Plan, config, write
from traces import Trace


class Says(LRU):
    """Planted: it declares ``said[step][layer]`` before that gate, and prefetches the experts in ``fetch``."""

    name = "says"

    def __init__(self, setup: Setup, said: dict[tuple[int, int], list[int]], fetch: tuple[int, ...] = ()) -> None:
        super().__init__(setup)
        self.said, self.fetch, self.number = said, fetch, 0

    def on_step(self, step: Step) -> None:
        self.number = step.number
        self._say(0)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self._say(event.layer + 1)

    def _say(self, layer: int) -> None:
        if (self.number, layer) in self.said:
            named = self.said[self.number, layer]
            self.actions.expect(named)
            for expert in set(named) & set(self.fetch):
                self.actions.prefetch(expert, 0.0)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """A prefill of two rows and two decode steps; two layers of four experts (layer 1: 4 to 7), one each."""
    ids = np.array([[[0], [1]], [[2], [1]], [[3], [2]], [[3], [2]]])
    return write(tmp_path / "t", [Plan((2,), 2)], ids, n_experts=4)


@pytest.fixture(autouse=True)
def _any_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted policy is not in the registry, so there is no digest of its code."""
    monkeypatch.setattr("sim.experiment.provenance.code_digest", lambda name: "")


def measured(trace: Trace, policy: Any) -> dict[str, Any]:
    cell = make_cell(config(trace, 100 * SIZE))
    return result_of(cell, simulate(cell, policy(cell.setup)), None)


def shares(predicted: int, accuracy: float, fetch_rate: float, good_pred: float) -> dict[str, Any]:
    found = {"accuracy": accuracy, "fetch_rate": fetch_rate, "good_pred": pytest.approx(good_pred)}
    return {"predicted": predicted, **found}


def test_by_hand(trace: Trace) -> None:
    """Prefill: 0, 1, 5 and 7 named; 0 and 5 used; 7 was fetched under layer 0, in vain, behind its demand.

    First decode step: 3 and 6 named, both used and neither fetched. Second: 3 and 6, there from before, and 4, which
    is not used; 5 is there too, but nobody names it.
    """
    said = {(1, 0): [0, 1], (1, 1): [5, 7], (2, 0): [3], (2, 1): [6], (3, 0): [3], (3, 1): [6, 4]}
    result = measured(trace, lambda setup: Says(setup, said, fetch=(7,)))
    found, nulls = result["prefetch"]["predictions"], result["nulls"]
    # On this machine a copy takes 12 ns and an expert 4: 0 to 12, 2 to 24, then 7; gate 1 at 28 finds it on the link.
    assert found["prefill"] == shares(4, 2 / 4, 0, 0)
    assert found["decode"] == shares(5, 4 / 5, 2 / 5, 8 / 25)
    assert {key: found[key] for key in found["decode"]} == shares(9, 6 / 9, 2 / 9, 12 / 81)
    assert not [key for key in nulls if key.startswith("prefetch")]


def test_what_is_fetched_in_time_counts_used_or_not(trace: Trace) -> None:
    """Named when step 2 begins, for layer 1: 7 is there before that gate, and is not used."""

    class Early(Says):
        def on_step(self, step: Step) -> None:
            super().on_step(step)
            if step.number > 1:  # in step 3 it is there, so that nothing is copied
                self.actions.expect([5, 7] if step.number == 2 else [7])
                self.actions.prefetch(7, 0.0)

    found = measured(trace, lambda setup: Early(setup, {}))["prefetch"]["predictions"]
    # Step 2: 5 is there since the prefill; 7 is copied before the demand of layer 0 can be. Step 3: 7 is there.
    assert found["decode"] == shares(3, 0, 1, 0)


def test_nothing_predicted_is_null_with_a_reason(trace: Trace) -> None:
    result = measured(trace, LRU)
    assert result["prefetch"]["predictions"] is None
    assert result["nulls"]["prefetch.predictions"] == "policy lru predicts nothing before the gate"
    result = measured(trace, lambda setup: Says(setup, {(2, 0): [3]}))
    none = {"predicted": 0, "accuracy": None, "fetch_rate": None, "good_pred": None}
    assert result["prefetch"]["predictions"]["prefill"] == none
    assert result["nulls"]["prefetch.predictions.prefill"] == "no expert was predicted in time here"


def test_what_is_said_after_the_gate_is_not_counted(trace: Trace) -> None:
    class Late(Says):
        def on_gate(self, event: LayerEvent) -> None:
            LRU.on_gate(self, event)
            self.actions.expect([event.layer * 4])  # for the next step's gate of this layer

    cell = make_cell(config(trace, 100 * SIZE))
    accounts = simulate(cell, Late(cell.setup, {})).accounts
    found, _ = predictions(LRU(cell.setup), accounts)
    assert found is not None
    assert found["predicted"] == 4  # of three steps with two gates each, those of the second and third


def test_the_accounts_refuse_more_uses_than_predictions() -> None:
    for place in (1, 7):
        accounts = Accounts(1)
        accounts.hits[0][0][place] = 1
        with pytest.raises(AssertionError, match="do not add up: of 0 predicted"):
            accounts.check()
