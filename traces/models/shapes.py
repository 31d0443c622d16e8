"""From a model's name to one MoE layer of its shape with random weights, and the numbers of that shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM

from traces.kit.errors import UserError, meant, one_of
from traces.kit.shipped import MODEL_DIR
from traces.models.families import ROUTER_NAMES

_GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "num_experts_per_tok": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
}
_SMALL_HEADS = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16}
_LARGE_HEADS = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
PUBLISHED: dict[str, dict[str, Any]] = {
    "olmoe_1b_7b": {
        "model_type": "olmoe",
        **_SMALL_HEADS,
        "intermediate_size": 1024,
        "vocab_size": 50304,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    "mixtral_8x7b": {
        "model_type": "mixtral",
        **_LARGE_HEADS,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "phi_3_5_moe": {
        "model_type": "phimoe",
        **_LARGE_HEADS,
        "intermediate_size": 6400,
        "vocab_size": 32064,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
    "qwen1_5_moe_a2_7b": {
        "model_type": "qwen2_moe",
        **_SMALL_HEADS,
        "moe_intermediate_size": 1408,
        "vocab_size": 151936,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
    },
    "qwen3_30b_a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "moe_intermediate_size": 768,
        "vocab_size": 151936,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    "deepseek_v2_lite": {
        "model_type": "deepseek_v2",
        **_SMALL_HEADS,
        "moe_intermediate_size": 1408,
        "vocab_size": 102400,
        "intermediate_size": 10944,
        "n_shared_experts": 2,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
    },
    "gpt_oss_20b": {**_GPT_OSS, "num_local_experts": 32},
    "gpt_oss_120b": {**_GPT_OSS, "num_local_experts": 128},
}
"""The models of ``conf/model`` as transformers configures them; the tests compare their parameters with it."""

_AUTO: Any = AutoModelForCausalLM
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Block:
    """The last layer of a model as short as may be, and its parts."""

    model: Any
    layer: Any
    experts: Any
    top_k: int
    shape: dict[str, int]  # by the names of the profile's `shape`


def configuration(name: str) -> Any:
    """The transformers configuration of a name of ``conf/model``, "reference", or a model on this machine."""
    if name in PUBLISHED:
        words = dict(PUBLISHED[name])
        return AutoConfig.for_model(words.pop("model_type"), **words)
    source = str(MODEL_DIR) if name == "reference" else name
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        return AutoConfig.from_pretrained(source, **local)
    except (OSError, ValueError, StrictDataclassError) as error:
        why = "no such folder, and not in the local Hugging Face cache"
        if Path(source).exists():
            why = " ".join(str(error).split())[:200]
        allowed = f"reference, {one_of(PUBLISHED)}, a model's folder or one of the local Hugging Face cache"
        near = meant(name, ["reference", *PUBLISHED])
        raise UserError(f"model={name!r} is not known ({why}); allowed: {allowed}{near}") from None


def build(name: str, device: torch.device, dtype: str) -> Block:
    """Random weights for the fewest layers that have a layer of experts; UserError where none has."""
    config = configuration(name)
    text = config.get_text_config()
    for layers in range(1, text.num_hidden_layers + 1):
        text.num_hidden_layers = layers
        for key, kind in (("layer_types", "full_attention"), ("mlp_layer_types", None)):
            if getattr(text, key, None):
                kinds = getattr(text, key)[:layers] if kind is None else [kind] * layers
                setattr(text, key, kinds)
        with torch.device("meta"):
            if _experts_name(_AUTO.from_config(config)):
                break
    else:
        raise UserError(f"model={name!r}: no layer of experts; allowed: a model that has one")
    with torch.device(device):
        model: Any = _AUTO.from_config(config, dtype=DTYPES[dtype])
    return _parts(model.eval().requires_grad_(requires_grad=False))


def _parts(model: Any) -> Block:
    name = _experts_name(model)
    assert name is not None
    experts: Any = model.get_submodule(name)
    block = model.get_submodule(name.rpartition(".")[0])
    layer: Any = model.get_submodule(name[: name.index(".", name.index("layers.") + len("layers."))])
    routers = [module for child, module in block.named_children() if child in ROUTER_NAMES]
    if len(routers) != 1:
        raise UserError(f"{name}: {len(routers)} routers beside it; allowed: one of {one_of(ROUTER_NAMES)}")
    n_experts, top_k = int(experts.num_experts), int(model.config.get_text_config().num_experts_per_tok)
    down = experts.down_proj
    expert_params, router_params = _params(experts) // n_experts, _params(routers[0])
    shape = {
        "hidden": int(down.shape[2 if experts.is_transposed else 1]),
        "expert_width": int(down.shape[1 if experts.is_transposed else 2]),
        "experts": n_experts,
        "top_k": top_k,
        "expert_params": expert_params,
        "attention_params": _params(layer) - _params(block),
        "router_params": router_params,
        "shared_expert_params": _params(block) - _params(experts) - router_params,
    }
    return Block(model, layer, experts, top_k, shape)


def _experts_name(model: Any) -> str | None:
    names = [
        name
        for name, module in model.named_modules()
        if all(hasattr(module, mark) for mark in ("num_experts", "is_transposed", "has_bias"))
    ]
    return names[-1] if names else None


def _params(module: Any) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
