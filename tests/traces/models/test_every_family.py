"""Every mixture of experts of the installed library is recorded truly or refused in a line: none is silently wrong."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401 - the module is left out without it

from tests.traces.models.tiny import FAMILIES as TINY
from tests.traces.models.tiny import MORE, RELEASE, SINCE, SIZES, E, K, build, spied_pass, transformers
from traces.collect.probe import check_cache
from traces.kit.errors import UserError
from traces.models.families import INPUTS, REFUSED, inspect_model
from traces.models.laws import FAMILIES, OTHERS

RECORDED = ""
PADDING = "only in a padded batch; allowed: batch=1"
"""Recorded, but not in a padded batch: there the library itself says something else than without padding."""

VERDICTS: dict[str, str] = {
    "deepseek_v4": PADDING,
    "doge": "its experts are rows of an embedding",
    "inkling2_loop_text": "some of its layers run several times in a pass",
    "jetmoe": "its attention is routed to experts too",
    "minimax": PADDING,
    "zaya": "its router may choose to skip all experts",
}
VERDICTS |= dict.fromkeys(
    """
    afmoe aria_text axk1 axk2 bailing_hybrid beam cohere2_moe dbrx deepseek_v2 deepseek_v3 deepseek_v32 dots1
    dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint gemma4_text glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss
    granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3 hy_v4 inkling_text inkling2_text
    jamba kimi_linear kolibri1 laguna lara_mini lfm2_moe llama4_text longcat_flash mellum mimo_v2_flash minimax_m2
    minimax_m3_vl_text mixtral nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen4_exp_text
    sarvam_mla sarvam_moe solar_open
    """.split(),  # noqa: SIM905
    RECORDED,
)
"""Model type -> RECORDED, PADDING, or why it is refused."""

_GENERAL = SIZES | {"moe_intermediate_size": 24, "head_dim": 8}
_GENERAL |= dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), E)
_GENERAL |= dict.fromkeys(("moe_k", "moe_topk", "top_k_experts"), K)
_GENERAL |= dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1)
_GENERAL |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1}
_GENERAL |= {"shared_expert_intermediate_size": 40, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8}
_GENERAL |= {"qk_rope_head_dim": 8, "v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64}
_GENERAL |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
_GENERAL |= {"linear_value_head_dim": 8, "linear_head_dim": 8, "linear_num_heads": 4}

_LATENT = {name: value for name, value in _GENERAL.items() if name != "head_dim"} | {"num_key_value_heads": 4}
_OF_LATENT = ("axk1", "axk2", "deepseek_v32", "dots3_note_text", "glm_moe_dsa", "glm4_moe_lite", "sarvam_mla")
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_OF_LATENT, _LATENT),
    "bailing_hybrid": _LATENT | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": E, "moe_top_k": K},
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 4,
        "max_seq_len": 128,
        **{name: SIZES[name] for name in ("vocab_size", "initializer_range")},
        **{name: SIZES[name] for name in ("eos_token_id", "bos_token_id", "pad_token_id")},
    },
    "doge": _GENERAL | {"is_moe": True, "num_experts": 64},
    "granitemoehybrid": _GENERAL
    | {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "inkling_text": _GENERAL | {"sliding_window": 16},
    "jamba": _GENERAL
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 1, "expert_layer_offset": 0}
    | {"mamba_d_state": 4, "mamba_dt_rank": 4},
    "kimi_linear": _LATENT | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": _GENERAL | {"layer_types": ["conv", "full_attention"] * 2},
    "minimax": _GENERAL | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen4_exp_text": _GENERAL
    | {"indexer_budget": 64, "indexer_compress_ratio": 4}
    | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8},
    "zaya": _GENERAL | {"num_experts_per_tok": 1},
}


def configuration(model_type: str) -> dict[str, Any]:
    """Tiny sizes of it."""
    listed = dict([*TINY.values(), *MORE.values()])
    return listed.get(model_type, _OWN.get(model_type, _GENERAL))


@cache
def mixtures() -> tuple[str, ...]:
    """The model types of the installed library that it can load as language models, and whose code has experts.

    Of one that takes several kinds of input, the type of its language model alone.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LOADED

    experts = re.compile(r"use_experts_implementation|class \w*(?:Experts?|Top[Kk]Router|MoE|SparseMoe\w*)\(")
    homes: dict[str, bool] = {}
    for file in Path(str(transformers.__file__)).parent.glob("models/*/modeling_*.py"):
        source = file.read_text(encoding="utf-8")
        has = bool(experts.search(source))
        homes |= dict.fromkeys(re.findall(r"^class (\w+)\(", source, re.MULTILINE), has)
    classes = {name: of if isinstance(of, str) else of[0] for name, of in LOADED.items()}
    found = [name for name, of in classes.items() if homes.get(of, False) and f"{name}_text" not in classes]
    return tuple(sorted(found))


KNOWN = (5, 24)
"""The release whose families are all in VERDICTS."""
PROMPTS = [[10, 11, 12, 13, 14], [20, 21]]


def test_each_is_known() -> None:
    """A family that a later release adds is tried by the next test, whether it is known or not."""
    if RELEASE <= KNOWN:
        assert set(mixtures()) <= VERDICTS.keys()
    if RELEASE == KNOWN:
        assert set(mixtures()) == VERDICTS.keys()


def test_what_the_code_says_by_name_is_a_mixture() -> None:
    names = {name.removesuffix("_text") for name in VERDICTS}
    assert FAMILIES.keys() | OTHERS.keys() | REFUSED.keys() <= names
    refused = {name.removesuffix("_text") for name, verdict in VERDICTS.items() if verdict not in (RECORDED, PADDING)}
    assert refused == REFUSED.keys()


@pytest.mark.ci
@pytest.mark.parametrize("model_type", mixtures())
def test_each_is_recorded_truly_or_refused(model_type: str) -> None:
    verdict = None if SINCE.get(model_type, RELEASE) > RELEASE else VERDICTS.get(model_type)
    try:
        model = build(model_type, **configuration(model_type))
    except Exception as error:  # sizes that a release refuses
        if verdict is None:
            pytest.skip(f"not known, and these sizes are not its own: {error}")
        raise
    said = complaint(model, PROMPTS[:1])
    if said is not None:
        assert "\n" not in said
        assert verdict not in (RECORDED, PADDING)
        assert verdict is None or verdict in said
        return
    assert verdict in (RECORDED, PADDING, None)
    said = complaint(model, PROMPTS)
    assert said is None if verdict == RECORDED else verdict is None or (said or "").endswith(PADDING)


def complaint(model: Any, prompts: Any) -> str | None:
    """Why it is not recorded, in a batch of those prompts; None: it is."""
    try:
        recorded(model)
        check_cache(inspect_model(model), prompts)
    except UserError as error:
        return str(error)
    return None


def recorded(model: Any) -> None:
    """A pass is recorded, and what it says is what the experts were called with."""
    moe = inspect_model(model)
    arrays, calls, _ = spied_pass(model)
    assert len(calls) == len(moe.layers)
    if moe.layers[0].way == INPUTS:
        return
    for layer, (_, called, _) in enumerate(calls):
        theirs = [sorted(int(x) for x in row if x < moe.n_experts) for row in called]
        assert theirs == [sorted(int(x) for x in row if x < moe.n_experts) for row in arrays["expert_ids"][:, layer]]
    assert np.isfinite(arrays["router_probs"]).all()
