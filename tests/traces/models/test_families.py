"""Ten families, each against sums done by hand: what is a layer, what it scores, chooses and weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import collect as main
from tests.traces.models.by_hand import route
from tests.traces.models.spy import spied_pass
from tests.traces.models.tiny import FAMILIES, MORE, ROUTED_LAYERS, E, L, build, save_with_tokenizer, tiny
from traces import open_trace
from traces.format.check import check_rows
from traces.kit.errors import UserError
from traces.models import laws
from traces.models.families import inspect_model

CHOOSERS = {"deepseek_v2", "deepseek_v3", "glm4_moe"}
SIGMOID = {"deepseek_v3", "glm4_moe"}


def top(choice: Any, k: int) -> Any:
    """Sorted ids [n, k] of the highest of `choice` [n, E]."""
    return np.sort(np.argsort(-choice, axis=-1)[..., :k], axis=-1)


def test_every_family_that_is_listed_has_a_tiny_model() -> None:
    types = {model_type.removesuffix("_text") for model_type, _ in (FAMILIES | MORE).values()}
    assert types == set(laws.FAMILIES)


def test_only_routed_layers_count(family: str, model: Any) -> None:
    """Neither dense layers nor shared experts, whose widths differ here, are part of it."""
    moe = inspect_model(model)
    where = [layer.name.split(".")[2] for layer in moe.layers]
    assert where == [str(index) for index in ROUTED_LAYERS[family]]
    assert (len(moe.layers), moe.n_experts, moe.top_k) == (L, E, model.config.num_experts_per_tok)
    biases = 32 + 2 * 24 if family == "gpt_oss" else 0
    assert moe.expert_bytes() == [(3 * 32 * 24 + biases) * 4] * L
    assert moe.shapes()["expert_width"] == 24
    assert moe.scoring == ("sigmoid" if family in SIGMOID else "softmax")
    assert moe.has_choice == (family in CHOOSERS)


def test_routing_by_hand(family: str, model: Any) -> None:
    arrays, calls, _ = spied_pass(model)
    assert ("router_choice" in arrays) == (family in CHOOSERS)
    for layer, (hidden, _, _) in enumerate(calls):
        router = inspect_model(model).layers[layer].router
        scores, choice, weights = route(model.config, router, hidden)
        np.testing.assert_allclose(arrays["router_probs"][:, layer], scores, rtol=1e-4, atol=1e-7)
        if family in CHOOSERS:
            bias = getattr(router, "e_score_correction_bias", torch.zeros(E)).mean().item()
            np.testing.assert_allclose(arrays["router_choice"][:, layer], choice - bias, rtol=1e-4, atol=1e-5)
        ids = arrays["expert_ids"][:, layer]
        recorded = np.zeros_like(weights)
        np.put_along_axis(recorded, ids, arrays["expert_weights"][:, layer], axis=-1)
        np.testing.assert_allclose(recorded, weights, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(np.sort(ids), top(choice, ids.shape[-1]))


def test_the_tiny_models_can_tell_a_family_from_another() -> None:
    """Biases and groups decide something, sparsemixer leaves something out, and some weights are not shares."""
    for family in CHOOSERS:
        arrays, _, _ = spied_pass(tiny(family))
        k = arrays["expert_ids"].shape[-1]
        assert (top(arrays["router_probs"], k) != np.sort(arrays["expert_ids"])).any(axis=-1).mean() > 0.2
    arrays, _, _ = spied_pass(tiny("phimoe"))
    share = np.take_along_axis(arrays["router_probs"], arrays["expert_ids"], axis=-1)
    assert (np.diff(share) > 0).any(), "the second expert outweighs the first somewhere"
    assert 0.2 < (arrays["expert_weights"] < 0.999).mean() < 0.9


def test_gate_ahead_is_the_later_gate_in_full(model: Any) -> None:
    """Bias, groups and all, applied to what entered the earlier gate; by descending weight."""
    arrays, calls, _ = spied_pass(model)
    routers = [layer.router for layer in inspect_model(model).layers]
    ahead = arrays["gate_ahead"]
    assert ahead.shape == (24, L, 2, model.config.num_experts_per_tok)
    for layer, (hidden, _, _) in enumerate(calls):
        for distance in (1, 2):
            found = ahead[:, layer, distance - 1]
            if layer + distance >= L:
                assert (found == 255).all()
                continue
            _, choice, weights = route(model.config, routers[layer + distance], hidden)
            np.testing.assert_array_equal(np.sort(found), top(choice, found.shape[-1]))
            assert (np.diff(np.take_along_axis(weights, found, axis=-1)) <= 1e-6).all()


def test_what_is_recorded_fits_the_format(model: Any) -> None:
    """Also in float16, where a common bias of 5 would have swallowed what tells experts apart."""
    arrays, _, _ = spied_pass(model)
    halves = {n: a.astype("f2") if a.dtype.kind == "f" else a.astype("u1") for n, a in arrays.items()}
    check_rows({name: array for name, array in halves.items() if name != "token_ids"}, E)
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
def test_low_precision_keeps_the_laws(model: Any, dtype: Any) -> None:
    arrays, _, _ = spied_pass(model.to(dtype))
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
