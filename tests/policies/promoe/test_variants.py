"""ProMoE's variants differ where the sources do; wrong parameters stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies import registry
from policies.api import Predictor, Setup, Signal
from policies.promoe.policy import ProMoE, fitted_name
from sim.check.lab import run
from sim.check.synthetic import setup_of
from tests.policies.promoe.desk import RIGHT, script
from tests.policies.scripted import SIZE, costs, sums
from traces.kit.errors import UserError

CONF = Path(__file__).parents[3] / "conf" / "policy"
FITTED = {
    "promoe": Predictor("promoe", 2, 3, {"input": "hidden"}),
    "promoe_routing": Predictor("promoe_routing", 2, 3, {"input": "routing"}),
}


def built(stem: str, setup: Setup) -> ProMoE:
    given = yaml.safe_load((CONF / f"{stem}.yaml").read_text())
    policy = registry.build(given.pop("name"), setup, given)
    assert isinstance(policy, ProMoE)
    return policy


def test_as_in_finemoe_reuses_the_gate_two_layers_on() -> None:
    """Gate 0's second entry of gate_ahead speaks of layer 2; no fitted predictor is read."""
    routing = script([[[0], [1], [2]]], [[[2], [], []]], signal="gate_ahead")
    policy = built("promoe_as_in_finemoe", setup_of(routing, 12 * SIZE, costs=costs(60)))
    assert policy.needs() == {Signal.GATE_AHEAD}
    assert policy.predictors() == frozenset()
    policy.line.latency_ns = 200
    # Synchronous: as above, the GPU waits for 200 ns at gate 0.
    assert sums(run(policy, routing)) == ([1, 0, 0, 0, 0], [60, 0, 0, 200, 0], 330 + 60 + 200)


def test_the_variants_differ_where_the_sources_do() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    paper, other = built("promoe", setup), built("promoe_as_in_finemoe", setup)
    assert (paper.source, other.source) == ("hidden", "gate_ahead")  # no trained predictor
    assert (paper.stride, other.stride) == (2, 2)
    assert (paper.preemption, other.preemption) == (True, False)  # no preemption queue
    assert (paper.reordering, other.reordering) == (True, False)
    assert (paper.by_layer, other.by_layer) == (True, False)  # per-layer, global LRU
    assert (paper.line.blocking, other.line.blocking) == (False, True)
    assert (paper.line.latency_ns, other.line.latency_ns) == (200_000, 30_000)
    assert paper.needs() == frozenset()
    assert paper.predictors() == {"promoe"}


def test_the_other_predictor_is_an_explicit_choice() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    assert ProMoE(setup, predictor="routing").predictors() == {"promoe_routing"}
    assert [fitted_name(*given) for given in (("hidden", 2), ("hidden", 1), ("routing", 3))] == [
        "promoe",
        "promoe_stride1",
        "promoe_routing_stride3",
    ]


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
