"""ProMoE's variants differ where the sources do; wrong parameters stop."""

from dataclasses import replace
from typing import Any

import pytest

from policies import registry
from policies.api import Predictor, Signal
from policies.promoe.policy import ProMoE, fitted_name
from sim.check.lab import run
from sim.check.synthetic import setup_of
from tests.policies.promoe.desk import RIGHT, script
from tests.policies.scripted import SIZE, as_shipped, costs, sums
from traces.kit.errors import UserError

FITTED = {
    "promoe": Predictor("promoe", 2, 3, {"input": "hidden"}),
    "promoe_routing": Predictor("promoe_routing", 2, 3, {"input": "routing"}),
}


def test_as_in_finemoe_reuses_the_gate_two_layers_on() -> None:
    """Gate 0's second entry of gate_ahead speaks of layer 2; no fitted predictor is read."""
    routing = script([[[0], [1], [2]]], [[[2], [], []]], signal="gate_ahead")
    policy = ProMoE(setup_of(routing, 12 * SIZE, costs=costs(60)), **as_shipped("promoe_as_in_finemoe"))
    assert policy.needs() == {Signal.GATE_AHEAD}
    assert policy.predictors() == frozenset()
    policy.line.latency_ns = 200
    # Synchronous: as above, the GPU waits for 200 ns at gate 0.
    assert sums(run(policy, routing)) == ([1, 0, 0, 0, 0], [60, 0, 0, 200, 0], 330 + 60 + 200)


def test_the_other_predictor_is_an_explicit_choice() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    assert ProMoE(setup).needs() == frozenset()
    assert ProMoE(setup).predictors() == {"promoe"}
    assert ProMoE(setup, predictor="routing").predictors() == {"promoe_routing"}
    assert fitted_name("hidden", 1) == "promoe_stride1"
    assert fitted_name("routing", 3) == "promoe_routing_stride3"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"predictor": "gate_ahead", "fitted": "promoe"}, r"^policy.fitted=promoe: allowed with .*gate_ahead: null"),
        ({"fitted": "promoe_routing"}, r"^policy.fitted=promoe_routing: was fitted on routing; allowed with .*=hidden"),
        ({"fitted": "promoe", "stride": 1}, r"^policy.stride=1: allowed with policy.fitted=promoe: 2"),
    ],
)
def test_wrong_parameters_stop(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.build("promoe", replace(setup_of(RIGHT, 12 * SIZE), predictors=FITTED), params)
    assert "\n" not in str(caught.value)
