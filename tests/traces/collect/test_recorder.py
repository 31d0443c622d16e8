"""What is recorded is what happened: compared with an independent spy and with sums done by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.traces.models.tiny import ALL, TOKENS, E, K, L, spied_pass, tiny
from traces.collect.recorder import Recorder
from traces.models.families import INTERFACE, inspect_model
from traces.models.routers import RecordingError
from traces.models.scoring import check_routing


def test_ids_and_weights_are_what_the_experts_received(model: Any) -> None:
    arrays, calls, _ = spied_pass(model)
    k = model.config.num_experts_per_tok
    assert arrays["expert_ids"].shape == arrays["expert_weights"].shape == (24, L, k)
    assert len(calls) == L
    for layer, (hidden, ids, weights) in enumerate(calls):
        order = weights.argsort(dim=-1, descending=True, stable=True)
        np.testing.assert_array_equal(arrays["expert_ids"][:, layer], ids.gather(1, order))
        np.testing.assert_array_equal(arrays["expert_weights"][:, layer], weights.gather(1, order))
        np.testing.assert_array_equal(arrays["hidden"][:, layer], hidden)


def test_embedding_and_tokens(model: Any) -> None:
    arrays, _, _ = spied_pass(model)
    np.testing.assert_array_equal(arrays["token_ids"], TOKENS.flatten())
    expected = model.get_input_embeddings().weight[TOKENS.flatten()].detach()
    np.testing.assert_array_equal(arrays["embedding"], expected)


def test_a_router_is_asked_once_more_for_all_that_it_foresees() -> None:
    """Where routers are offloaded, each call fetches one: not once per layer looked ahead."""
    model = tiny("olmoe")
    asked: list[tuple[int, int]] = []
    for index, layer in enumerate(inspect_model(model).layers):
        sound = layer.router.forward
        layer.router.forward = lambda x, index=index, sound=sound: asked.append((index, x.numel() // 32)) or sound(x)
    spied_pass(model)
    own, foreseen = [(index, 24) for index in range(L)], [(1, 24), (2, 48), (3, 48)]  # two layers are looked ahead
    assert sorted(asked) == sorted(own + foreseen)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_a_row(model: Any, side: str) -> None:
    """Of two sequences of 12 and 5 tokens, one is padded; what is recorded is what each gives alone."""
    tokens, real = TOKENS.clone(), torch.ones(2, 12, dtype=torch.bool)
    real[1, :7] = False
    real = real if side == "left" else real.flip(1)
    tokens[~real] = 0
    position = (real.cumsum(dim=1) - 1).clamp(min=0)
    masked, _, _ = spied_pass(model, tokens, real, attention_mask=real.long(), position_ids=position)
    alone = [spied_pass(model, row[mask][None])[0] for row, mask in zip(tokens, real, strict=True)]
    assert 0 not in masked["token_ids"]
    for name, array in masked.items():
        assert len(array) == 17
        expected = np.concatenate([one[name] for one in alone])
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_recording_changes_nothing(any_model: Any, implementation: str) -> None:
    model = any_model
    if inspect_model(model).layers[0].way == INTERFACE:  # others have but one
        model.set_experts_implementation(implementation)
    found = model.config._experts_implementation
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    with torch.inference_mode():
        before = model(input_ids=TOKENS, use_cache=False).logits
    _, _, during = spied_pass(model)
    assert torch.equal(before, during)
    assert model.config._experts_implementation == found
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()] == hooks
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_pass_that_did_not_run_every_layer_once_is_refused() -> None:
    model = tiny("olmoe")
    recorder = Recorder(inspect_model(model), ALL, ahead=1)
    with recorder.attached(), torch.inference_mode():
        with pytest.raises(RecordingError, match="layer 0: its router did not run"):
            recorder.pass_over(TOKENS)
        model(input_ids=TOKENS, use_cache=False)
        with pytest.raises(RecordingError, match="layer 0: its router ran twice"):
            model(input_ids=TOKENS, use_cache=False)
        with pytest.raises(RecordingError, match="24 rows for 12 tokens"):
            recorder.pass_over(TOKENS[:1])


def test_a_pass_not_taken_leaves_nothing_to_the_next_one() -> None:
    model = tiny("olmoe")
    recorder = Recorder(inspect_model(model), ALL, ahead=1)
    with recorder.attached(), torch.inference_mode():
        model(input_ids=TOKENS, use_cache=False)
    with recorder.attached(), torch.inference_mode():
        model(input_ids=TOKENS[:1], use_cache=False)
        assert len(recorder.pass_over(TOKENS[:1])["expert_ids"]) == 12


def test_what_rounding_and_ties_leave_is_sound() -> None:
    """What is not, test_faults plants."""
    choice = torch.softmax(torch.randn(5, 2, E, generator=torch.Generator().manual_seed(0)), -1).numpy()
    ids = np.argsort(-choice, axis=-1)[..., :K]
    weights = np.take_along_axis(choice, ids, axis=-1)
    check_routing(choice, ids, weights * 1.004, weights)  # what bfloat16 rounds away
    check_routing(np.full_like(choice, 0.5), ids, weights, weights)
    barred = np.where(choice < np.median(choice, axis=-1, keepdims=True), -np.inf, choice)
    check_routing(barred, ids, weights, weights)
    with pytest.raises(RecordingError, match="do not follow"):
        check_routing(choice, ids, weights * 1.05, weights)
