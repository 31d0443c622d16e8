"""Every mixture of experts that the library loads as a language model: a tiny configuration, and what becomes of it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.traces.models.tiny import FAMILIES, MORE, SIZES, E, K, transformers

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

RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])
"""Of the installed library."""
SINCE = dict.fromkeys(("aria_text", "jamba", "longcat_flash"), (5, 23))
"""Before, their routers keep their logits to themselves, which refuses them."""


def there(family: str) -> str:
    """The family; skips where the installed library is too old for it."""
    if SINCE.get(family, RELEASE) > RELEASE:
        pytest.skip("its router keeps its logits to itself in this release")
    return family


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
    listed = dict([*FAMILIES.values(), *MORE.values()])
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
