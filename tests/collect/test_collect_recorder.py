"""What is recorded is what happened: compared with an independent spy and with sums done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
pytest.importorskip("transformers", reason="the collector needs the extra 'hf'")

from tiny_models import E, K, L  # noqa: E402

from traces.collect.families import inspect_model  # noqa: E402
from traces.collect.recorder import Recorder, RecordingError, check_routing  # noqa: E402

ALL = frozenset({"router_probs", "gate_ahead", "hidden", "embedding", "token_ids"})
TOKENS = torch.arange(2, 26).reshape(2, 12)


def spied_pass(model: Any, ids: Any, real: Any = None) -> tuple[dict[str, Any], list[Any], Any]:
    """One recorded pass; beside it, what each experts module was called with, and the logits."""
    moe = inspect_model(model)
    calls: list[Any] = []
    hooks = [layer.experts.register_forward_pre_hook(lambda _module, args: calls.append(args)) for layer in moe.layers]
    recorder = Recorder(moe, ALL, ahead=2)
    with recorder.attached(), torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
        arrays = recorder.pass_over(ids, real)
    for hook in hooks:
        hook.remove()
    return arrays, calls, logits


@torch.inference_mode()
def scores_by_hand(router: Any, hidden: Any) -> Any:
    bias = getattr(router, "bias", 0.0)
    return torch.softmax(hidden @ router.weight.T + bias, dim=-1).numpy()


def test_ids_and_weights_are_what_the_experts_received(model: Any) -> None:
    arrays, calls, _ = spied_pass(model, TOKENS)
    assert arrays["expert_ids"].shape == arrays["expert_weights"].shape == (24, L, K)
    for layer, (_, ids, weights) in enumerate(calls):
        order = weights.argsort(dim=-1, descending=True)
        np.testing.assert_array_equal(arrays["expert_ids"][:, layer], ids.gather(1, order))
        np.testing.assert_array_equal(arrays["expert_weights"][:, layer], weights.gather(1, order))


def test_scores_and_hidden_states_are_recomputed(model: Any) -> None:
    arrays, calls, _ = spied_pass(model, TOKENS)
    routers = [layer.router for layer in inspect_model(model).layers]
    for layer, (hidden, _, _) in enumerate(calls):
        np.testing.assert_array_equal(arrays["hidden"][:, layer], hidden)
        expected = scores_by_hand(routers[layer], hidden)
        np.testing.assert_allclose(arrays["router_probs"][:, layer], expected, rtol=1e-4)


def test_gate_ahead_is_the_later_gate_on_the_earlier_hidden_state(model: Any) -> None:
    arrays, calls, _ = spied_pass(model, TOKENS)
    routers = [layer.router for layer in inspect_model(model).layers]
    assert arrays["gate_ahead"].shape == (24, L, 2, K)
    for layer, (hidden, _, _) in enumerate(calls):
        for ahead in (1, 2):
            recorded = arrays["gate_ahead"][:, layer, ahead - 1]
            if layer + ahead >= L:
                assert (recorded == 255).all()
            else:
                scores = scores_by_hand(routers[layer + ahead], hidden)
                np.testing.assert_array_equal(recorded, np.argsort(-scores, axis=1)[:, :K])


def test_embedding_and_tokens(model: Any) -> None:
    arrays, _, _ = spied_pass(model, TOKENS)
    np.testing.assert_array_equal(arrays["token_ids"], TOKENS.flatten())
    expected = model.get_input_embeddings().weight[TOKENS.flatten()].detach()
    np.testing.assert_array_equal(arrays["embedding"], expected)


def test_padding_is_not_a_row(model: Any) -> None:
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 5:] = False
    masked, _, _ = spied_pass(model, TOKENS, real)
    whole, _, _ = spied_pass(model, TOKENS)
    for name, array in masked.items():
        assert len(array) == 17
        np.testing.assert_array_equal(array, whole[name][real.flatten()])


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_recording_changes_nothing(model: Any, implementation: str) -> None:
    model.set_experts_implementation(implementation)
    with torch.inference_mode():
        before = model(input_ids=TOKENS, use_cache=False).logits
    _, _, during = spied_pass(model, TOKENS)
    assert torch.equal(before, during)
    assert model.config._experts_implementation == implementation
    assert not any(module._forward_hooks for name, module in model.named_modules() if "router" in name)


def test_a_pass_that_did_not_run_every_layer_once_is_refused(model: Any) -> None:
    recorder = Recorder(inspect_model(model), ALL, ahead=1)
    with recorder.attached(), torch.inference_mode():
        with pytest.raises(RecordingError, match="0 routers"):
            recorder.pass_over(TOKENS)
        model(input_ids=TOKENS, use_cache=False)
        with pytest.raises(RecordingError, match="out of turn"):
            model(input_ids=TOKENS, use_cache=False)
        with pytest.raises(RecordingError, match="24 rows for 12 tokens"):
            recorder.pass_over(TOKENS[:1])


def routing() -> tuple[Any, Any, Any]:
    """Scores [5, 2, E], ids and weights [5, 2, K] that pass."""
    scores = torch.softmax(torch.randn(5, 2, E, generator=torch.Generator().manual_seed(0)), -1).numpy()
    ids = np.argsort(-scores, axis=-1)[..., :K]
    return scores, ids, np.take_along_axis(scores, ids, axis=-1)


def test_sound_routing_passes() -> None:
    check_routing(*routing())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda scores, ids, weights: (scores, ids + E, weights), "not 0 to 7"),
        (lambda scores, ids, weights: (scores, ids[:, [0, 0, 1]], weights), "twice"),
        (lambda scores, ids, weights: (-scores, ids, weights), "highest"),
        (lambda scores, ids, weights: (scores, ids, weights[:, ::-1]), "proportion"),
    ],
)
def test_broken_routing_is_refused(break_it: Any, message: str) -> None:
    sound, broken = routing(), routing()
    for whole, layer in zip(broken, break_it(*(part[:, 1] for part in sound)), strict=True):
        whole[:, 1] = layer
    with pytest.raises(RecordingError, match=f"layer 1.*{message}"):
        check_routing(*broken)
