"""Faults planted in a model, each found by the collector's own checks, which name the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.traces.models.spy import ALL, spied_pass
from tests.traces.models.tiny import K, tiny
from traces.models.families import inspect_model
from traces.models.routers import RecordingError

NOTHING: frozenset[str] = frozenset()
Routing = tuple[Any, Any, Any]
"""What a router returns: logits, weights, ids."""


def fewer_rows(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits[:-1], weights[:-1], ids[:-1]


def fewer_choices(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights[:-1], ids[:-1]


def no_weight(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights.index_fill(0, torch.tensor([5]), 0.0), ids


def one_less(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights[:, :-1], ids[:, :-1]


def one_more(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights[:, [*range(K), 0]], ids[:, [*range(K), 0]]


def next_best(logits: Any, weights: Any, ids: Any) -> Routing:
    ids = logits.topk(K + 1).indices[:, 1:]
    return logits, logits.softmax(-1).gather(1, ids), ids


def duplicated(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights[:, [0, 0, 2]], ids[:, [0, 0, 2]]


def permuted(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights.roll(1, dims=-1), ids


def scaled(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights * 1.1, ids


def of_another_token(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits, weights.roll(1, dims=0), ids.roll(1, dims=0)


def nan_scores(logits: Any, weights: Any, ids: Any) -> Routing:
    return logits * torch.nan, weights, ids


ROUTER_FAULTS: list[tuple[Callable[..., Routing], str]] = [
    (fewer_rows, "shapes .*for 24 tokens"),
    (fewer_choices, "shapes .*for 24 tokens"),
    (no_weight, "do not follow"),
    (one_less, "shapes .*top-3"),
    (one_more, "shapes .*top-3"),
    (next_best, "highest scores|not open"),
    (duplicated, "an expert twice"),
    (permuted, "do not follow"),
    (scaled, "do not follow"),
    (of_another_token, "highest scores|not open"),
    (nan_scores, "not a number"),
]


@pytest.mark.parametrize(("fault", "message"), ROUTER_FAULTS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("signals", [NOTHING, ALL], ids=["nothing", "all"])
def test_a_router_that_errs(family: str, fault: Any, message: str, signals: frozenset[str]) -> None:
    model = tiny(family)
    router = inspect_model(model).layers[2].router
    sound = router.forward
    router.forward = lambda hidden: fault(*sound(hidden))
    with pytest.raises(RecordingError, match=f"^layer 2: .*{message}"):
        spied_pass(model, signals=signals)


def test_an_expert_that_there_is_not() -> None:
    """The library's grouped kernel computes nothing for it, and says nothing."""
    model = tiny("mixtral")
    router = inspect_model(model).layers[1].router
    sound = router.forward
    router.forward = lambda hidden: (*sound(hidden)[:2], sound(hidden)[2].index_fill(1, torch.tensor([2]), 8))
    model.set_experts_implementation("grouped_mm")
    with pytest.raises(RecordingError, match=r"^layer 1: an expert's number is not 0 to 7"):
        spied_pass(model)


def test_a_second_expert_weighed_as_if_it_were_the_first() -> None:
    """Phi-MoE's own formula: a plain softmax would be in proportion, and wrong."""
    model = tiny("phimoe")
    router = inspect_model(model).layers[1].router
    sound = router.forward

    def plain(hidden: Any) -> Routing:
        logits, _, ids = sound(hidden)
        return logits, logits.softmax(-1).gather(1, ids), ids

    router.forward = plain
    with pytest.raises(RecordingError, match=r"^layer 1: the weights do not follow"):
        spied_pass(model)


@pytest.mark.parametrize("name", ["e_score_correction_bias", "topk_group", "norm_topk_prob", "routed_scaling_factor"])
def test_a_setting_that_the_router_does_not_follow(name: str) -> None:
    """Whatever makes DeepSeek-V3's choice or weights, the check makes them too."""
    model = tiny("deepseek_v3")
    router = inspect_model(model).layers[3].router
    other = {"e_score_correction_bias": torch.zeros(8), "topk_group": 4, "norm_topk_prob": False}
    sound, said = router.forward, getattr(router, name)

    def deaf(hidden: Any) -> Routing:
        setattr(router, name, other.get(name, 1.0))
        try:
            return sound(hidden)  # type: ignore[no-any-return]
        finally:
            setattr(router, name, said)

    router.forward = deaf
    with pytest.raises(RecordingError, match=r"^layer 3: (the chosen|a token chose an expert of a group|the weights)"):
        spied_pass(model, signals=NOTHING)


@pytest.mark.parametrize("signals", [NOTHING, ALL], ids=["nothing", "all"])
def test_scores_of_another_layer(signals: frozenset[str]) -> None:
    """Ids and weights are the layer's own, and what the hook sees is not."""
    model = tiny("mixtral")
    routers = [layer.router for layer in inspect_model(model).layers]
    own, other = routers[1].forward, routers[2].forward
    routers[1].forward = lambda hidden: (other(hidden)[0], *own(hidden)[1:])
    with pytest.raises(RecordingError, match=r"^layer 1: the chosen experts have not the highest scores"):
        spied_pass(model, signals=signals)


@pytest.mark.parametrize("family", ["olmoe", "glm4_moe"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_layer_that_is_skipped(family: str, layer: int) -> None:
    model = tiny(family)
    block = model.get_submodule(inspect_model(model).layers[layer].name.rpartition(".")[0])
    block.forward = torch.zeros_like
    with pytest.raises(RecordingError, match=f"^layer {layer}: its router did not run"):
        spied_pass(model)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_layer_that_runs_twice(layer: int) -> None:
    model = tiny("qwen2_moe")
    block = model.get_submodule(inspect_model(model).layers[layer].name.rpartition(".")[0])
    sound = block.forward
    block.forward = lambda hidden: sound(sound(hidden))
    with pytest.raises(RecordingError, match=f"^layer {layer}: its router ran twice"):
        spied_pass(model)


@pytest.mark.parametrize(
    ("times", "message"), [(0, "layer 1: its experts did not run"), (2, "layer 1: its experts ran twice")]
)
def test_experts_that_do_not_run_once(times: int, message: str) -> None:
    model = tiny("granitemoe")
    experts = inspect_model(model).layers[1].experts
    sound = experts.forward

    def forward(hidden: Any, ids: Any, weights: Any) -> Any:
        for _ in range(times):
            hidden = sound(hidden, ids, weights)
        return hidden

    experts.forward = forward
    with pytest.raises(RecordingError, match=f"^{message}"):
        spied_pass(model)


def test_a_token_that_never_reaches_the_experts() -> None:
    """The router chose for it; the block left it out, as with a capacity."""
    model = tiny("mixtral")
    experts = inspect_model(model).layers[2].experts
    sound = experts.forward

    def forward(hidden: Any, ids: Any, weights: Any) -> Any:
        return torch.cat([sound(hidden[:-1], ids[:-1], weights[:-1]), hidden[-1:]])

    experts.forward = forward
    with pytest.raises(RecordingError, match=r"^layer 2: its experts received 23 tokens .*router.* 24"):
        spied_pass(model)
