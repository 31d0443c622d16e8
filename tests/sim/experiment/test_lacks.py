"""What a policy needs and a trace has not: all of it in one line, with the words after which nothing is missing."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from policies import registry
from policies.api import Setup, Signal
from policies.lru import LRU
from policies.promoe import ProMoE
from sim.experiment.cell import make_cell, make_policy, policy_of
from sim.experiment.lacks import There
from tests.sim.small_trace import Plan, config, write
from traces import Trace, UserError
from traces.writing.predicted import write_predicted

N, L, E, K, A = 4, 5, 4, 2, 2
SIGNALS = {
    "expert_weights": np.full((N, L, K), 0.5),
    "router_probs": np.full((N, L, E), 0.25),
    "gate_ahead": np.where(np.arange(L)[:, None, None] + [[1], [2]] < L, [0, 1], 255)[None].repeat(N, 0),
    "hidden": np.ones((N, L, 3)),
    "embedding": np.ones((N, 3)),
    "token_ids": np.arange(N),
}


def trace(folder: Path, *recorded: str, split: bool = True) -> Trace:
    """Two requests, with these signals."""
    plans = [Plan((1,), 1, split=half if split else None) for half in ("train", "test")]
    ids = np.tile([0, 1], (N, L, 1))
    return write(folder / "t", plans, ids, n_experts=E, signals={name: SIGNALS[name] for name in recorded})


def ask(trace: Trace, name: str, **params: Any) -> Any:
    return make_policy(make_cell(replace(config(trace, 5000), policy={"name": name, **params})))


def refused(trace: Trace, name: str, **params: Any) -> str:
    """The message, in which T is the trace."""
    with pytest.raises(UserError) as caught:
        ask(trace, name, **params)
    assert f"policy={name}" in str(caught.value)
    assert f"trace={trace.path}" in str(caught.value)
    return str(caught.value).replace(str(trace.path), "T")


def switches(message: str) -> Mapping[str, Any]:
    """The parameters that a message says to change."""
    return {key: yaml.safe_load(value) for key, value in re.findall(r"policy\.(\w+)=(\w+)", message)}


class Chain(LRU):
    """Planted: without hidden states it takes the tokens, without these the scores, and then it goes round."""

    name = "chain"
    without: ClassVar[Mapping[Signal, str]] = {
        Signal.HIDDEN: "policy.source=tokens",
        Signal.TOKEN_IDS: "policy.source=scores policy.last=true",
        Signal.ROUTER_PROBS: "policy.source=tokens",
    }

    def __init__(self, setup: Setup, *, source: str = "hidden", last: bool = False) -> None:
        super().__init__(setup)
        if source == "scores" and not last:
            raise UserError("policy.source=scores: allowed: with last")
        self.source = {"hidden": Signal.HIDDEN, "tokens": Signal.TOKEN_IDS, "scores": Signal.ROUTER_PROBS}[source]

    def needs(self) -> frozenset[Signal]:
        return frozenset({self.source})


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"chain": Chain})


NOT = "which trace=T did not record; recorded: expert_ids"
FIT = "python -m policies fit promoe"
UNFITTED = "which was not fitted for trace=T; there are: none; allowed: "
AHEAD = ("router_probs", "gate_ahead")
ROUTING = {"predictor": "routing"}


@pytest.mark.parametrize(
    ("name", "params", "recorded", "end"),
    [
        ("fmoe", {}, (), f"embedding, router_probs, {NOT}; allowed: policy.search=trajectory policy.maps=choices"),
        ("fmoe", {}, ("router_probs",), f"signal embedding, {NOT}, router_probs; allowed: policy.search=trajectory"),
        ("fmoe", {}, ("embedding",), f"signal router_probs, {NOT}, embedding; allowed: policy.maps=choices"),
        ("swapmoe", {"norms": "hidden"}, ("router_probs", "expert_weights"), "; allowed: policy.norms=one"),
        # Where nothing helps; also where a switch does without one of several.
        ("gate_ahead", {}, (), f"{NOT}; there is no fallback"),
        ("swapmoe", {}, (), f"{NOT}; there is no fallback"),
        ("swapmoe", {"norms": "hidden"}, (), f"{NOT}; there is no fallback"),
        ("mixtral_offloading", {}, (), f"{NOT}; there is no fallback"),
        # A switch that leads to what is missing is followed.
        ("chain", {}, (), "; there is no fallback"),
        ("chain", {}, ("token_ids",), "; allowed: policy.source=tokens"),
        ("chain", {}, ("router_probs",), "; allowed: policy.source=scores policy.last=true"),
        # Predictors that were not fitted.
        ("promoe", {}, tuple(SIGNALS), f"{UNFITTED}{FIT}, or policy.predictor=gate_ahead"),
        ("promoe", {}, ("hidden",), f"{UNFITTED}{FIT}"),
        ("promoe", {"stride": 3, "fitted": "mine"}, ("hidden",), f"{UNFITTED}{FIT} stride=3 name=mine"),
        ("promoe", {}, ("router_probs",), f"{UNFITTED}policy.predictor=routing after {FIT} input=routing"),
        ("promoe", {}, (), f"{UNFITTED}policy.predictor=routing after {FIT} input=routing target=chosen"),
        ("promoe", ROUTING, (), f"{UNFITTED}{FIT} input=routing target=chosen"),
        ("promoe", ROUTING, ("router_probs",), f"{UNFITTED}{FIT} input=routing"),
        ("promoe", ROUTING, AHEAD, f"{UNFITTED}{FIT} input=routing, or policy.predictor=gate_ahead"),
        (
            "promoe",
            ROUTING | {"fitted": "mine"},
            AHEAD,
            f"{UNFITTED}{FIT} input=routing name=mine, or policy.fitted=null policy.predictor=gate_ahead",
        ),
        # Three layers ahead were not recorded.
        ("promoe", ROUTING | {"stride": 3}, AHEAD, f"{UNFITTED}{FIT} input=routing stride=3"),
    ],
)
def test_all_that_is_missing_with_all_switches(
    tmp_path: Path, name: str, params: dict[str, Any], recorded: tuple[str, ...], end: str
) -> None:
    bare = trace(tmp_path, *recorded)
    message = refused(bare, name, **params)
    assert message.startswith(f"policy={name} needs the ")
    assert message.endswith(end)
    if " after " not in end and (given := switches(end)):
        ask(bare, name, **params | given)


@pytest.mark.parametrize(
    ("name", "recorded", "end"),
    [
        ("static", tuple(SIGNALS), "=0.7"),
        ("moe_infinity", tuple(SIGNALS), "=0.7, or give policy.filled=false"),
        ("fmoe", tuple(SIGNALS), "=0.7, or give policy.store=online"),
        ("swapmoe", tuple(SIGNALS), "=0.7, or give policy.planner=uniform policy.start=index"),
        # A switch that is wanted for another reason does without the split as well.
        ("fmoe", ("router_probs",), "; allowed: policy.search=trajectory policy.store=online"),
    ],
)
def test_a_trace_without_a_split(tmp_path: Path, name: str, recorded: tuple[str, ...], end: str) -> None:
    whole = trace(tmp_path, *recorded, split=False)
    message = refused(whole, name)
    assert message.endswith(f"has no split; import or collect it with split{end}" if "=0.7" in end else end)
    if "policy." in end:
        ask(whole, name, **switches(message))


def test_another_predictor_that_was_fitted_is_offered(tmp_path: Path) -> None:
    bare = trace(tmp_path)
    said = np.tile([[0, 1]], (N, L, 1))
    said[:, -2:] = 255
    write_predicted(bare, [said], name="promoe_routing", kind="promoe", input="routing", stride=2, top_k=K, fit={})
    message = refused(bare, "promoe")
    assert "needs the predictor promoe, which was not fitted for" in message
    assert "; there are: promoe_routing; allowed: " in message
    assert message.endswith(", or policy.predictor=routing")
    assert isinstance(ask(bare, "promoe", predictor="routing"), ProMoE)


@pytest.mark.parametrize(
    ("name", "key", "params"), [("gate_ahead", "distance", {}), ("promoe", "stride", {"predictor": "gate_ahead"})]
)
def test_a_distance_that_was_not_recorded(tmp_path: Path, name: str, key: str, params: dict[str, Any]) -> None:
    """Said before the run begins, by the key that was given."""
    whole = trace(tmp_path, *SIGNALS)
    message = refused(whole, name, **params, **{key: A + 1})
    assert message.startswith(f"policy.{key}={A + 1}: policy={name} reads gate_ahead so many layers ahead; trace=")
    assert message.endswith(f"recorded, and allowed: 1 to {A}")
    ask(whole, name, **params, **{key: A})


def live(trace: Trace, history: Trace | None, name: str, **params: Any) -> Any:
    """The policy of a model that runs, which shows all signals, looks two layers ahead and has no predictor."""
    train = [] if history is None else [r.request for r in history.requests if r.split == "train"]
    there = There("t", history, train, (), tuple(Signal), 2, live=True)
    return policy_of({"name": name, **params}, make_cell(config(trace, 5000)).setup, there)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "promoe",
            {},
            "policy=promoe needs the predictor promoe: give predictor=FILE, of python -m policies fit, or"
            " policy.predictor=gate_ahead",
        ),
        (
            "moe_infinity",
            {},
            "policy=moe_infinity learns from train requests: give trace=, of this model, with a split, or"
            " give policy.filled=false",
        ),
        (
            "gate_ahead",
            {"distance": 3},
            "policy.distance=3: policy=gate_ahead reads gate_ahead so many layers ahead; a model that runs shows, and"
            " allowed: 1 to 2",
        ),
        (
            "belady_forced",
            {},
            "policy.name=belady_forced: sees the future, so it is a reference row and not a choice",
        ),
    ],
)
def test_a_model_that_runs_wants_other_things(tmp_path: Path, name: str, params: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        live(trace(tmp_path), None, name, **params)
    assert str(caught.value) == message


def test_a_policy_of_a_model_that_runs_learns_from_the_trace_that_is_given(tmp_path: Path) -> None:
    recorded = trace(tmp_path)
    assert live(recorded, recorded, "static").kept
