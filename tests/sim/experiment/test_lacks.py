"""What a policy needs and a trace has not: all of it in one line, with the words after which nothing is missing."""

from __future__ import annotations

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
from sim.experiment.cell import make_cell
from sim.experiment.lacks import There
from sim.experiment.make import make_policy, policy_of
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
    with pytest.raises(UserError) as caught:
        ask(trace, name, **params)
    assert f"policy={name}" in str(caught.value)
    assert f"trace={trace.path}" in str(caught.value)
    return str(caught.value)


def switches(message: str) -> Mapping[str, Any]:
    """The parameters that a message says to change."""
    return {key: yaml.safe_load(value) for key, value in re.findall(r"policy\.(\w+)=(\w+)", message)}


@pytest.mark.parametrize(
    ("recorded", "missing", "offered"),
    [
        ((), "signals embedding, router_probs", "policy.search=trajectory policy.maps=choices"),
        (("router_probs",), "signal embedding", "policy.search=trajectory"),
        (("embedding",), "signal router_probs", "policy.maps=choices"),
    ],
)
def test_all_that_is_missing_with_all_switches(
    tmp_path: Path, recorded: tuple[str, ...], missing: str, offered: str
) -> None:
    bare = trace(tmp_path, *recorded)
    message = refused(bare, "fmoe")
    assert message.startswith(f"policy=fmoe needs the {missing}, which trace=")
    assert message.endswith(f"did not record; recorded: {', '.join(('expert_ids', *recorded))}; allowed: {offered}")
    ask(bare, "fmoe", **switches(message))


@pytest.mark.parametrize(
    ("name", "params"),
    [("gate_ahead", {}), ("swapmoe", {}), ("swapmoe", {"norms": "hidden"}), ("mixtral_offloading", {})],
)
def test_where_nothing_helps_the_message_says_so(tmp_path: Path, name: str, params: dict[str, Any]) -> None:
    """Also where a switch does without one of several."""
    assert refused(trace(tmp_path), name, **params).endswith("recorded: expert_ids; there is no fallback")


def test_the_switch_for_the_one_signal_that_is_missing(tmp_path: Path) -> None:
    message = refused(trace(tmp_path, "router_probs", "expert_weights"), "swapmoe", norms="hidden")
    assert message.endswith("; allowed: policy.norms=one")


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


@pytest.mark.parametrize(
    ("recorded", "end"),
    [
        ((), "there is no fallback"),
        (("token_ids",), "allowed: policy.source=tokens"),
        (("router_probs",), "allowed: policy.source=scores policy.last=true"),
    ],
)
def test_a_switch_that_leads_to_what_is_missing_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: tuple[str, ...], end: str
) -> None:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"chain": Chain})
    message = refused(bare := trace(tmp_path, *recorded), "chain")
    assert message.endswith(f"; {end}")
    if recorded:
        ask(bare, "chain", **switches(message))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("static", ""),
        ("moe_infinity", ", or give policy.filled=false"),
        ("fmoe", ", or give policy.store=online"),
        ("swapmoe", ", or give policy.planner=uniform policy.start=index"),
    ],
)
def test_a_trace_without_a_split(tmp_path: Path, name: str, end: str) -> None:
    whole = trace(tmp_path, *SIGNALS, split=False)
    message = refused(whole, name)
    assert message.endswith(f"has no split; import or collect it with split=0.7{end}")
    if end:
        ask(whole, name, **switches(message))


def test_a_switch_is_offered_where_the_split_is_missing_too(tmp_path: Path) -> None:
    """The next message is about that: with another split the switch suffices."""
    message = refused(trace(tmp_path, "router_probs", split=False), "fmoe")
    assert "allowed: policy.search=trajectory" in message


FIT = "python -m policies fit promoe"


@pytest.mark.parametrize(
    ("recorded", "params", "offered"),
    [
        (tuple(SIGNALS), {}, f"{FIT}, or policy.predictor=gate_ahead"),
        (("hidden",), {}, FIT),
        (("hidden",), {"stride": 3, "fitted": "mine"}, f"{FIT} stride=3 name=mine"),
        (("router_probs",), {}, f"policy.predictor=routing after {FIT} input=routing"),
        ((), {}, f"policy.predictor=routing after {FIT} input=routing target=chosen"),
        ((), {"predictor": "routing"}, f"{FIT} input=routing target=chosen"),
        (("router_probs",), {"predictor": "routing"}, f"{FIT} input=routing"),
        (
            ("router_probs", "gate_ahead"),
            {"predictor": "routing"},
            f"{FIT} input=routing, or policy.predictor=gate_ahead",
        ),
        (
            ("router_probs", "gate_ahead"),
            {"predictor": "routing", "fitted": "mine"},
            f"{FIT} input=routing name=mine, or policy.fitted=null policy.predictor=gate_ahead",
        ),
        # Three layers ahead were not recorded.
        (("router_probs", "gate_ahead"), {"predictor": "routing", "stride": 3}, f"{FIT} input=routing stride=3"),
    ],
)
def test_a_predictor_that_was_not_fitted(
    tmp_path: Path, recorded: tuple[str, ...], params: dict[str, Any], offered: str
) -> None:
    message = refused(trace(tmp_path, *recorded), "promoe", **params)
    assert message.endswith(f"; there are: none; allowed: {offered}")


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
