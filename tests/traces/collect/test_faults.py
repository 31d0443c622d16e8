"""Faults planted in a model, each found by the collector's own checks, which name the layer."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from tests.traces.models.tiny import ALL, MORE, K, spied_pass, there, tiny
from traces.models.families import inspect_model
from traces.models.routers import RecordingError

NOTHING: frozenset[str] = frozenset()
Routing = tuple[Any, Any, Any]
"""What a router returns: logits, weights, ids."""


ROUTER_FAULTS: dict[str, tuple[Callable[[Any, Any, Any], Routing], str]] = {
    "fewer rows": (lambda x, w, i: (x[:-1], w[:-1], i[:-1]), "shapes .*for 24 tokens"),
    "fewer choices": (lambda x, w, i: (x, w[:-1], i[:-1]), "shapes .*for 24 tokens"),
    "no weight": (lambda x, w, i: (x, w.index_fill(0, torch.tensor([5]), 0.0), i), "do not follow"),
    "one less": (lambda x, w, i: (x, w[:, :-1], i[:, :-1]), "shapes .*top-3"),
    "one more": (lambda x, w, i: (x, w[:, [*range(K), 0]], i[:, [*range(K), 0]]), "shapes .*top-3"),
    "next best": (lambda x, _w, _i: weighed(x, x.topk(K + 1).indices[:, 1:]), "highest scores|not open"),
    "duplicated": (lambda x, w, i: (x, w[:, [0, 0, 2]], i[:, [0, 0, 2]]), "an expert twice"),
    "permuted": (lambda x, w, i: (x, w.roll(1, dims=-1), i), "do not follow"),
    "scaled": (lambda x, w, i: (x, w * 1.1, i), "do not follow"),
    "of another token": (lambda x, w, i: (x, w.roll(1, dims=0), i.roll(1, dims=0)), "highest scores|not open"),
    "nan scores": (lambda x, w, i: (x * torch.nan, w, i), "not a number"),
}


def weighed(logits: Any, ids: Any) -> Routing:
    """The choice `ids`, weighed by a plain softmax."""
    return logits, logits.softmax(-1).gather(1, ids), ids


def errs(model: Any, layer: int, fault: Callable[..., Any]) -> Any:
    """The model, whose router returns what `fault` makes of its logits, weights and ids."""
    router = inspect_model(model).layers[layer].router
    sound = router.forward
    router.forward = lambda *args, **kwargs: fault(*sound(*args, **kwargs))
    return model


def around(model: Any, layer: int, change: Callable[..., Any], *, experts: bool = False) -> Any:
    """The model, with a block, or its experts, that run as `change` lets them: it is given their forward."""
    found = inspect_model(model).layers[layer]
    module = found.experts if experts else model.get_submodule(found.name.rpartition(".")[0])
    module.forward = partial(change, module.forward)
    return model


ERRING = [*product(["olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3"], ROUTER_FAULTS)]
ERRING += product(MORE.keys() - {"llama4"}, ["scaled", "of another token"])


@pytest.mark.parametrize(("family", "fault"), sorted(ERRING))
def test_a_router_that_errs(family: str, fault: str) -> None:
    """With all signals or with none, in turn."""
    change, message = ROUTER_FAULTS[fault]
    signals = (NOTHING, ALL)[sorted(ERRING).index((family, fault)) % 2]
    with pytest.raises(RecordingError, match=f"^layer 2: .*({message})"):
        spied_pass(errs(tiny(there(family)), 2, change), signals=signals)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda scores, logits: (scores * 1.1, logits), "the weights do not follow"),
        (lambda scores, logits: (scores.roll(1, dims=-1), logits), "the chosen experts"),
    ],
)
def test_a_router_of_llama_4_that_errs(fault: Callable[..., Any], message: str) -> None:
    """It returns scores, 0 where it has not chosen, and logits."""
    with pytest.raises(RecordingError, match=f"^layer 2: {message}"):
        spied_pass(errs(tiny("llama4"), 2, fault))


def test_what_llama_4_hands_its_experts_is_looked_at() -> None:
    """Not what the router said: a block that hands one token to another expert is found."""
    model = tiny("llama4")
    experts = inspect_model(model).layers[1].experts
    experts.register_forward_pre_hook(lambda _module, args: (args[0].roll(1, dims=0),))
    with pytest.raises(RecordingError, match=r"^layer 1: its experts received other tokens"):
        spied_pass(model)


def test_an_expert_that_there_is_not() -> None:
    """The library's grouped kernel computes nothing for it, and says nothing."""
    model = errs(tiny("mixtral"), 1, lambda x, w, i: (x, w, i.index_fill(1, torch.tensor([2]), 8)))
    model.set_experts_implementation("grouped_mm")
    with pytest.raises(RecordingError, match=r"^layer 1: an expert's number is not 0 to 7"):
        spied_pass(model)


def test_a_second_expert_weighed_as_if_it_were_the_first() -> None:
    """Phi-MoE's own formula: a plain softmax would be in proportion, and wrong."""
    with pytest.raises(RecordingError, match=r"^layer 1: the weights do not follow"):
        spied_pass(errs(tiny("phimoe"), 1, lambda x, _w, i: weighed(x, i)))


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


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda _sound, hidden: torch.zeros_like(hidden), "did not run"),
        (lambda sound, hidden: sound(sound(hidden)), "ran twice"),
    ],
)
@pytest.mark.parametrize(("family", "layer"), [("olmoe", 0), ("glm4_moe", 1), ("qwen2_moe", 3)])
def test_a_layer_that_is_skipped_or_runs_twice(family: str, layer: int, fault: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=f"^layer {layer}: its router {message}"):
        spied_pass(around(tiny(family), layer, fault))


EXPERT_FAULTS: list[tuple[Callable[..., Any], str]] = [
    (lambda _sound, hidden, _i, _w: hidden, "its experts did not run"),
    (lambda sound, hidden, i, w: sound(sound(hidden, i, w), i, w), "its experts ran twice"),
    # The router chose for the last token; the block left it out, as with a capacity.
    (lambda sound, hidden, i, w: sound(hidden[:-1], i[:-1], w[:-1]), r"its experts received 23 tokens .*router.* 24"),
]


@pytest.mark.parametrize(("fault", "message"), EXPERT_FAULTS)
@pytest.mark.parametrize("family", ["granitemoe", "mixtral"])
def test_experts_that_err(family: str, fault: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=f"^layer 1: {message}"):
        spied_pass(around(tiny(family), 1, fault, experts=True))
