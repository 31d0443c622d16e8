"""Eight families more, each against sums done by hand: biases of the block, hashes, scales, idle experts."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.traces.models.by_hand import route_more
from tests.traces.models.every_family import RELEASE, SINCE
from tests.traces.models.spy import ALL, TOKENS, spied_pass
from tests.traces.models.tiny import MORE, E, K, L, tiny
from traces.collect.generate import passes
from traces.collect.probe import check_cache
from traces.collect.recorder import Recorder
from traces.format.check import check_rows
from traces.models.families import inspect_model
from traces.models.routers import RecordingError
from traces.prompts.choosing import greedy

ABSENT = 255
PROMPT = list(range(10, 30))
IDLE = {"longcat_flash": 3}
CHOOSERS = {"afmoe", "deepseek_v4", "ernie4_5_moe", "hy_v3", "longcat_flash", "minimax_m2"}
SCORING = {"deepseek_v4": "sqrtsoftplus"} | dict.fromkeys(("ernie4_5_moe", "gemma4", "longcat_flash"), "softmax")


@pytest.fixture(params=sorted(MORE))
def family(request: pytest.FixtureRequest) -> str:
    """Each of the eight."""
    return there(str(request.param))


def there(family: str) -> str:
    """The family; skips where the installed library is too old for it."""
    if SINCE.get(family, RELEASE) > RELEASE:
        pytest.skip("its router keeps its logits to itself in this release")
    return family


@cache
def recorded(family: str) -> tuple[Any, dict[str, Any], list[Any], list[Any]]:
    """A model, what a pass recorded, what entered its routers [n, D], and what its experts were called with."""
    model, entered = tiny(family), []
    for layer in inspect_model(model).layers:
        layer.router.register_forward_pre_hook(lambda _module, args: entered.append(args[0].reshape(-1, 32).clone()))
    arrays, calls, _ = spied_pass(model)
    return model, arrays, entered, calls


def test_what_is_a_layer(family: str) -> None:
    moe = inspect_model(recorded(family)[0])
    assert (len(moe.layers), moe.n_experts, moe.top_k, moe.idle) == (L, E, K, IDLE.get(family, 0))
    assert (moe.scoring, moe.has_choice) == (SCORING.get(family, "sigmoid"), family in CHOOSERS)
    assert moe.expert_bytes() == [3 * 32 * 24 * 4] * L
    assert moe.shapes()["expert_width"] == 24
    assert moe.is_listed


def test_routing_by_hand(family: str) -> None:
    model, arrays, entered, calls = recorded(family)
    assert ("router_choice" in arrays) == (family in CHOOSERS)
    assert len(entered) == len(calls) == L
    for layer, (hidden, call) in enumerate(zip(entered, calls, strict=True)):
        found = inspect_model(model).layers[layer]
        block = model.get_submodule(found.name.rpartition(".")[0])
        scores, choice, weights = route_more(model.config, found.router, block, hidden, TOKENS.flatten().tolist())
        whole = scores.sum(-1, keepdims=True) if family == "deepseek_v4" else 1.0
        np.testing.assert_allclose(arrays["router_probs"][:, layer], (scores / whole)[:, :E], rtol=1e-4, atol=1e-7)
        if family in CHOOSERS:
            own, open_ = arrays["router_choice"][:, layer], np.isfinite(choice[:, :E])
            assert (np.isneginf(own) == ~open_).all()
            off = choice[:, :E][open_] - own[open_]  # a constant: the mean of the bias
            np.testing.assert_allclose(off, off.mean(), rtol=1e-4, atol=1e-4)
        ids, given = arrays["expert_ids"][:, layer], arrays["expert_weights"][:, layer]
        for row, own, expected in zip(ids, given, weights, strict=True):
            real = {expert: weight for expert, weight in expected.items() if expert < E}
            got = {int(expert): weight for expert, weight in zip(row, own, strict=True) if expert != ABSENT}
            assert got.keys() == real.keys()
            np.testing.assert_allclose([got[x] for x in real], [*real.values()], rtol=1e-4)
            assert (own[row == ABSENT] == 0).all()
            assert (np.diff(own) <= 0).all()
        if family == "llama4":  # all experts see all tokens: what is not theirs is 0
            (inputs,) = call
            share = inputs.reshape(E, 24, 32) / hidden
            np.testing.assert_allclose(np.sort(share[:, :, 0].T)[:, ::-1][:, :K], given, rtol=1e-4)
            assert ((share[:, :, 0] != 0).sum(0) == K).all()
        else:  # what the experts were called with, in whatever order
            _, called, by = call
            order = by.argsort(dim=-1, descending=True, stable=True)
            kept = called.gather(1, order).numpy()
            assert {tuple(sorted(row[row < E])) for row in kept} == {tuple(sorted(row[row != ABSENT])) for row in ids}


def test_idle_experts_are_no_lookup() -> None:
    _, arrays, _, calls = recorded(there("longcat_flash"))
    idle = sum(int((call[1] >= E).sum()) for call in calls)
    assert idle == (arrays["expert_ids"] == ABSENT).sum() > 20
    assert (arrays["router_probs"].sum(-1) < 0.999).any(), "the scores of those that compute nothing are no expert's"


def test_gate_ahead_is_the_later_gate_in_full(family: str) -> None:
    """A bias of the block, a table by tokens, and all."""
    model, arrays, entered, _ = recorded(family)
    tokens = TOKENS.flatten().tolist()
    for layer, hidden in enumerate(entered):
        for distance in (1, 2):
            found = arrays["gate_ahead"][:, layer, distance - 1]
            if layer + distance >= L:
                assert (found == ABSENT).all()
                continue
            later = inspect_model(model).layers[layer + distance]
            block = model.get_submodule(later.name.rpartition(".")[0])
            _, _, weights = route_more(model.config, later.router, block, hidden, tokens)
            for row, expected in zip(found, weights, strict=True):
                assert {int(x) for x in row if x != ABSENT} == {x for x in expected if x < E}


def test_what_is_recorded_fits_the_format(family: str) -> None:
    _, arrays, _, _ = recorded(family)
    halves = {n: a.astype("f2") if a.dtype.kind == "f" else a.astype("u1") for n, a in arrays.items()}
    check_rows({name: array for name, array in halves.items() if name != "token_ids"}, E)


def test_recording_changes_nothing_and_ends(family: str) -> None:
    model = recorded(family)[0]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    with torch.inference_mode():
        before = model(input_ids=TOKENS, use_cache=False).logits
        with Recorder(inspect_model(model), ALL, ahead=2).attached():
            during = model(input_ids=TOKENS, use_cache=False).logits
    assert torch.equal(before, during)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_with_a_cache_as_without(family: str) -> None:
    """Also where scores are rounded before they are chosen from; float32 is below, by the tokens that are made."""
    check_cache(inspect_model(tiny(family).to(torch.bfloat16)), [PROMPT])


def test_greedy_tokens_equal_plain_generate(family: str) -> None:
    model = recorded(family)[0]
    with torch.inference_mode():
        tokens = [int(step.chosen[0]) for step in passes(model, [PROMPT], [greedy], [6], ())]
        expected = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, 20),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
    assert tokens == expected[0, 20:].tolist()


@pytest.mark.parametrize("fault", ["weights", "experts"])
def test_a_router_that_errs(family: str, fault: str) -> None:
    model = tiny(family)
    layer = inspect_model(model).layers[2]
    sound = layer.router.forward

    def errs(*args: Any, **kwargs: Any) -> Any:
        if family == "llama4":  # scores [n, E], logits
            scores, logits = sound(*args, **kwargs)
            return scores * 1.1 if fault == "weights" else scores.roll(1, dims=-1), logits
        logits, weights, ids = sound(*args, **kwargs)
        return (logits, weights * 1.1, ids) if fault == "weights" else (logits, weights, ids.roll(1, dims=0))

    layer.router.forward = errs
    with pytest.raises(RecordingError, match=r"^layer 2: (the weights do not follow|the chosen experts|a token chose)"):
        spied_pass(model)


def test_what_llama_4_hands_its_experts_is_looked_at() -> None:
    """Not what the router said: a block that hands one token to another expert is found."""
    model = tiny("llama4")
    experts = inspect_model(model).layers[1].experts
    experts.register_forward_pre_hook(lambda _module, args: (args[0].roll(1, dims=0),))
    with pytest.raises(RecordingError, match=r"^layer 1: its experts received other tokens"):
        spied_pass(model)
