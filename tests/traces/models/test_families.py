"""Eighteen families, each against sums done by hand: what is a layer, what it scores, chooses and weighs."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import collect as main
from tests.traces.models.by_hand import bias_of, route
from tests.traces.models.tiny import (
    FAMILIES,
    MORE,
    ROUTED_LAYERS,
    TOKENS,
    E,
    K,
    L,
    build,
    save_with_tokenizer,
    spied_pass,
    there,
    tiny,
)
from traces import open_trace
from traces.collect.probe import check_cache
from traces.format.check import check_rows
from traces.kit.errors import UserError
from traces.models import laws
from traces.models.families import inspect_model

CHOOSERS = {"deepseek_v2", "deepseek_v3", "glm4_moe"}
CHOOSERS |= {"afmoe", "deepseek_v4", "ernie4_5_moe", "hy_v3", "longcat_flash", "minimax_m2"}
SIGMOID = {"deepseek_v3", "glm4_moe", "afmoe", "hy_v3", "llama4", "minimax_m2"}
IDLE = {"longcat_flash": 3}
ABSENT = 255


@pytest.fixture(params=sorted(FAMILIES | MORE))
def family(request: pytest.FixtureRequest) -> str:
    """Each that has sums done by hand."""
    return there(str(request.param))


@cache
def recorded(family: str) -> tuple[Any, dict[str, Any], list[Any], list[Any]]:
    """A model, what a pass recorded, what entered its routers [n, D], and what its experts were called with."""
    model, entered = tiny(family), []
    for layer in inspect_model(model).layers:
        layer.router.register_forward_pre_hook(lambda _module, args: entered.append(args[0].reshape(-1, 32).clone()))
    arrays, calls, _ = spied_pass(model)
    assert len(entered) == len(calls) == L
    return model, arrays, entered, calls


def by_hand(model: Any, layer: int, hidden: Any) -> tuple[Any, Any, Any, Any]:
    """Scores, choice, weights [n, E] of the layer's router on `hidden`, and the mean of its bias."""
    found = inspect_model(model).layers[layer]
    block = model.get_submodule(found.name.rpartition(".")[0])
    offset = 0.0 if hasattr(found.router, "tid2eid") else np.mean(bias_of(found.router, block))
    return *route(model.config, found.router, block, hidden, TOKENS.flatten().tolist()), offset


def top(choice: Any, k: int) -> Any:
    """Sorted ids [n, k] of the highest of `choice` [n, E]."""
    return np.sort(np.argsort(-choice, axis=-1)[..., :k], axis=-1)


def test_every_family_that_is_listed_has_a_tiny_model() -> None:
    types = {model_type.removesuffix("_text") for model_type, _ in (FAMILIES | MORE).values()}
    assert types == set(laws.FAMILIES)


def test_only_routed_layers_count(family: str) -> None:
    """Neither dense layers nor shared experts, whose widths differ here, are part of it."""
    moe = inspect_model(model := recorded(family)[0])
    if family in ROUTED_LAYERS:
        assert tuple(int(layer.name.split(".")[2]) for layer in moe.layers) == ROUTED_LAYERS[family]
    top_k = model.config.num_experts_per_tok if family == "phimoe" else K
    assert (len(moe.layers), moe.n_experts, moe.top_k, moe.idle) == (L, E, top_k, IDLE.get(family, 0))
    biases = 32 + 2 * 24 if family == "gpt_oss" else 0
    assert moe.expert_bytes() == [(3 * 32 * 24 + biases) * 4] * L
    assert moe.shapes()["expert_width"] == 24
    scoring = "sqrtsoftplus" if family == "deepseek_v4" else "sigmoid" if family in SIGMOID else "softmax"
    assert (moe.scoring, moe.has_choice, moe.is_listed) == (scoring, family in CHOOSERS, True)


def test_routing_by_hand(family: str) -> None:
    model, arrays, entered, _ = recorded(family)
    assert ("router_choice" in arrays) == (family in CHOOSERS)
    for layer, hidden in enumerate(entered):
        scores, choice, weights, offset = by_hand(model, layer, hidden)
        whole = scores.sum(-1, keepdims=True) if family == "deepseek_v4" else 1.0
        np.testing.assert_allclose(arrays["router_probs"][:, layer], (scores / whole)[:, :E], rtol=1e-4, atol=1e-7)
        if family in CHOOSERS:
            own = arrays["router_choice"][:, layer]
            np.testing.assert_allclose(own, choice[:, :E] - offset, rtol=1e-4, atol=1e-4)
        ids, given = arrays["expert_ids"][:, layer], arrays["expert_weights"][:, layer]
        assert (given[ids == ABSENT] == 0).all()
        assert (np.diff(given) <= 0).all()
        found = np.zeros((len(ids), ABSENT + 1))
        np.put_along_axis(found, ids, given, axis=-1)
        np.testing.assert_allclose(found[:, :E], weights[:, :E], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", sorted(MORE))
def test_what_the_experts_were_called_with(family: str) -> None:
    """In whatever order; of the other families test_recorder tells, to the bit."""
    _, arrays, entered, calls = recorded(there(family))
    for layer, (hidden, call) in enumerate(zip(entered, calls, strict=True)):
        ids, given = arrays["expert_ids"][:, layer], arrays["expert_weights"][:, layer]
        if family == "llama4":  # all experts see all tokens: what is not theirs is 0
            share = (call[0].reshape(E, 24, 32) / hidden)[:, :, 0]
            np.testing.assert_allclose(np.sort(share.T)[:, ::-1][:, :K], given, rtol=1e-4)
            assert ((share != 0).sum(0) == K).all()
        else:
            called = call[1].numpy()
            assert [set(row[row < E]) for row in called] == [set(row[row != ABSENT]) for row in ids]


def test_idle_experts_are_no_lookup() -> None:
    _, arrays, _, calls = recorded(there("longcat_flash"))
    idle = sum(int((call[1] >= E).sum()) for call in calls)
    assert idle == (arrays["expert_ids"] == ABSENT).sum() > 20
    assert (arrays["router_probs"].sum(-1) < 0.999).any(), "the scores of those that compute nothing are no expert's"


def test_the_tiny_models_can_tell_a_family_from_another() -> None:
    """Biases and groups decide something, sparsemixer leaves something out, and some weights are not shares."""
    for family in CHOOSERS - MORE.keys():
        arrays = recorded(family)[1]
        k = arrays["expert_ids"].shape[-1]
        assert (top(arrays["router_probs"], k) != np.sort(arrays["expert_ids"])).any(axis=-1).mean() > 0.2
    arrays = recorded("phimoe")[1]
    share = np.take_along_axis(arrays["router_probs"], arrays["expert_ids"], axis=-1)
    assert (np.diff(share) > 0).any(), "the second expert outweighs the first somewhere"
    assert 0.2 < (arrays["expert_weights"] < 0.999).mean() < 0.9


def test_gate_ahead_is_the_later_gate_in_full(family: str) -> None:
    """Bias, groups, tables and all, applied to what entered the earlier gate; by descending weight."""
    model, arrays, entered, _ = recorded(family)
    for layer, hidden in enumerate(entered):
        for distance in (1, 2):
            found = arrays["gate_ahead"][:, layer, distance - 1]
            if layer + distance >= L:
                assert (found == ABSENT).all()
                continue
            weights = by_hand(model, layer + distance, hidden)[2][:, :E]
            assert [set(row[row != ABSENT]) for row in found] == [set(np.flatnonzero(row)) for row in weights]
            padded = np.pad(weights, ((0, 0), (0, ABSENT + 1 - E)))
            assert (np.diff(np.take_along_axis(padded, found.astype(int), axis=-1)) <= 1e-6).all()


def test_what_is_recorded_fits_the_format(family: str) -> None:
    """Also in float16, where a common bias of 5 would have swallowed what tells experts apart."""
    arrays = recorded(family)[1]
    halves = {n: a.astype("f2") if a.dtype.kind == "f" else a.astype("u1") for n, a in arrays.items()}
    check_rows({name: array for name, array in halves.items() if name != "token_ids"}, E)
    if family in MORE:
        return
    choice = halves.get("router_choice", halves["router_probs"]).astype(float)
    chosen = np.take_along_axis(choice, arrays["expert_ids"], axis=-1).min(axis=-1)
    best = -np.sort(-choice, axis=-1)[..., arrays["expert_ids"].shape[-1] - 1]
    np.testing.assert_allclose(chosen, best, atol=1e-3)
    barred = np.isneginf(choice).sum(axis=-1)
    assert (barred == (4 if "router_choice" in halves else 0)).all()


def test_the_choice_comes_with_the_scores_alone() -> None:
    arrays, _, _ = spied_pass(tiny("deepseek_v3"), signals=frozenset({"router_choice"}))
    assert set(arrays) == {"expert_ids", "expert_weights"}


def test_a_bias_without_groups_is_a_choice() -> None:
    arrays, _, _ = spied_pass(tiny("deepseek_v3", n_group=1, topk_group=1))
    assert np.isfinite(arrays["router_choice"]).all()
    assert not inspect_model(tiny("deepseek_v2", topk_group=4)).has_choice


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_laws(family: str, dtype: Any) -> None:
    arrays, _, _ = spied_pass(tiny(family).to(dtype))
    assert len(arrays["expert_ids"]) == 24


def test_a_choice_goes_into_the_trace(tmp_path: Path) -> None:
    folder = save_with_tokenizer(tiny("deepseek_v3"), tmp_path / "v3")
    (tmp_path / "p.txt").write_text("Some text.\n")
    main([f"model={folder}", f"prompts={tmp_path / 'p.txt'}", f"out={tmp_path / 't'}", "max_new_tokens=3"])
    trace = open_trace(tmp_path / "t")
    assert trace.manifest.model.scoring == "sigmoid"
    assert np.isneginf(trace.router_choice).sum(axis=-1).tolist() == [[4] * L] * 12
    assert (trace.router_probs > 0).all()


def broken(change: Any, family: str = "olmoe", **sizes: Any) -> Any:
    model = tiny(family, **sizes)
    change(model.model.layers[1].mlp)
    return model


def rename(block: Any) -> None:
    block.chooser = block.gate
    del block.gate


def test_models_that_cannot_be_recorded() -> None:
    def refused(model: Any, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            inspect_model(model)
        assert "\n" not in str(caught.value)

    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    refused(build("llama", **sizes, intermediate_size=24), "'llama': this one has no layer of experts; tested: afmoe")
    refused(tiny("qwen2_moe", mlp_only_layers=[0, 1, 2, 3, 4]), "'qwen2_moe': this one has no layer of experts")
    found = "layers.1.mlp.experts: 0 routers among experts, chooser; allowed: one of gate, router"
    refused(broken(rename), found)
    refused(broken(lambda block: setattr(block.gate, "top_k", 2)), r"differ in .*\[\(8, 2\), \(8, 3\)\]")
    refused(tiny("phimoe", num_experts_per_tok=3), "num_experts_per_tok=3; allowed for phimoe: 2")
    refused(tiny("deepseek_v2", topk_method="noaux_tc"), "topk_method='noaux_tc'; allowed for deepseek_v2: greedy")
    refused(tiny("deepseek_v3", topk_group=1), "n_group=4, topk_group=1 leave 2 experts to choose 3 from")
    top_1 = FAMILIES["olmoe"][1] | {"num_experts_per_tok": 1}
    refused(build("flex_olmo", **top_1), "'flex_olmo'.*num_experts_per_tok=1.*allowed: 2 or more")
    refused(tiny("deepseek_v3").to("meta"), "layers.1.mlp.experts: its router is on the meta device")


@pytest.mark.parametrize("model_type", ["dots1", "flex_olmo"])
def test_another_family_of_a_known_structure_is_recorded(model_type: str) -> None:
    _, sizes = FAMILIES["deepseek_v3" if model_type == "dots1" else "olmoe"]
    model = build(model_type, **sizes)
    moe = inspect_model(model)
    arrays, calls, _ = spied_pass(model)
    assert (moe.scoring, moe.has_choice) == (("sigmoid", True) if model_type == "dots1" else ("softmax", False))
    for layer, (_, ids, _) in enumerate(calls):
        np.testing.assert_array_equal(np.sort(arrays["expert_ids"][:, layer]), np.sort(ids))


def test_another_family_that_keeps_no_known_law_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its structure, ERNIE's router would be a sigmoid with a bias; it is a softmax with one."""
    model = tiny("ernie4_5_moe")
    monkeypatch.delitem(laws.FAMILIES, "ernie4_5_moe")  # type: ignore[attr-defined]
    before = model.config._experts_implementation
    message = "'ernie4_5_moe' cannot be recorded: layer 0: the chosen experts have not the highest scores"
    with pytest.raises(UserError, match=message):
        spied_pass(model)
    assert model.config._experts_implementation == before


def test_a_router_that_asks_for_more_is_refused() -> None:
    """What an earlier router has left, say: then its choice by other hidden states is not known."""
    model = tiny("afmoe")
    router = inspect_model(model).layers[0].router

    class Curious(type(router)):  # type: ignore[misc]
        def forward(self, hidden_states: Any, expert_bias: Any, router_states: Any = 0) -> Any:
            return super().forward(hidden_states, expert_bias)

    router.__class__ = Curious
    spied_pass(model)
    router.register_forward_pre_hook(lambda _module, args: (*args, args[0]))
    with pytest.raises(UserError, match=r"layer 0: its router takes more than hidden states, .*: router_states$"):
        spied_pass(model)


@pytest.mark.parametrize("family", sorted(MORE))
def test_with_a_cache_as_without(family: str) -> None:
    """Also where scores are rounded before they are chosen from; for float32 see test_generate."""
    check_cache(inspect_model(tiny(there(family)).to(torch.bfloat16)), [list(range(10, 30))])
