"""Families beyond the first ten: run to the same bits, or refused in a line; what they show is what they do."""

from typing import Any

import numpy as np
import pytest

from policies.lru import LRU
from real.runtime.live import AHEAD, Live
from real.runtime.offloaded import Offloaded
from real.runtime.runner import running
from tests.real.runtime.rig import CPU, All, Rig, Served, generate, serve, torch
from tests.real.runtime.test_lossless import library
from tests.traces.models.tiny import MORE, SIZES, E, build, tiny
from traces.collect.recorder import Recorder
from traces.kit.errors import UserError
from traces.models.families import inspect_model

REFUSED = {
    "deepseek_v4": "'deepseek_v4' cannot be run here: its cache has layers of type",
    "llama4": "'llama4_text' cannot be run here: its experts do not go through",
    "longcat_flash": "'longcat_flash' cannot be run here: its experts do not go through",
}
PROMPTS, NEW_TOKENS = ((5, 9, 200), tuple(range(40, 61)), (8,)), (3, 2, 4)
"""The second is longer than the sliding windows here."""


@pytest.mark.parametrize("family", sorted(MORE.keys() - REFUSED.keys()))
def test_logits_do_not_depend_on_the_budget(family: str) -> None:
    """And the gates of later layers are asked for what they would choose, with their blocks' biases."""
    model = tiny(family)
    expected = library(model, PROMPTS, NEW_TOKENS)
    recorder = Recorder(inspect_model(model), frozenset({"gate_ahead"}), AHEAD)
    ids = torch.tensor([PROMPTS[1]])
    with recorder.attached(), torch.inference_mode():
        model(input_ids=ids, use_cache=False)
        ahead = recorder.pass_over(ids)["gate_ahead"]
    rig = Rig(Offloaded(model, CPU), chunks=2)
    whole, some = (
        serve(rig, make, held, 2, prompts=PROMPTS, new_tokens=NEW_TOKENS).check()
        for make, held in ((All, rig.experts), (LRU, rig.experts // 3))
    )
    assert whole.made == expected
    assert some.same_logits(whole)
    np.testing.assert_array_equal(shown_ahead(rig, PROMPTS[1]), ahead)


def shown_ahead(rig: Rig, prompt: Any) -> Any:
    """gate_ahead [n, L, A, K] as a policy of a run reads it."""
    live = Live(rig.model.moe, {"gate_ahead"})
    machine = rig.machine(All, rig.experts)
    request = Served(0, list(prompt), lambda scores: int(scores.argmax()), 1)
    with running(rig.model, machine, live) as runner:
        generate(runner, live, [request], 1, ())
        runner.finish()
    with torch.inference_mode():
        return live.rows_of("gate_ahead", request.parts)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_what_cannot_be_run_is_refused(family: str) -> None:
    with pytest.raises(UserError, match=REFUSED[family]) as caught:
        Offloaded(tiny(family), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["minimax", "qwen3_next"])
def test_a_cache_that_holds_more_than_keys_and_values_is_refused(model_type: str) -> None:
    """Each of its requests' caches would be joined with others', as if it were keys and values alone."""
    sizes = {"num_local_experts": E, "num_experts": E, "head_dim": 8, "moe_intermediate_size": 24}
    sizes |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "shared_expert_intermediate_size": 40}
    sizes |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    layers = {"layer_types": ["linear_attention", "full_attention"] * 2}
    with pytest.raises(UserError, match=f"'{model_type}' cannot be run here: its cache has layers of type Linear"):
        Offloaded(build(model_type, **SIZES | sizes | layers), CPU)
