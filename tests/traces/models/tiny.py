"""Tiny random models, built here, since no weights are at hand where the tests run; and a recorded pass of one."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
transformers = pytest.importorskip("transformers", reason="the collector needs the extra 'hf'")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 299,
    "pad_token_id": None,
    "initializer_range": 0.3,  # routers that differ, so that a mix-up cannot hide
}
L, E, K = 4, 8, 3
"""MoE layers, experts and top-K of every one (Phi-MoE's K is 2); dense layers come on top."""

ALL = frozenset({"router_probs", "gate_ahead", "hidden", "embedding", "token_ids"})
TOKENS = torch.arange(2, 26).reshape(2, 12)

SMALL = {"moe_intermediate_size": 24, "intermediate_size": 40, "num_hidden_layers": 5, "head_dim": 8}
DEEPSEEK = SIZES | SMALL | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 8}
DEEPSEEK |= {"qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": E, "n_shared_experts": 2}
DEEPSEEK |= {"first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
QWEN = SIZES | SMALL | {"num_experts": E}
GPT_OSS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16, "rope_parameters": ROPE}
GLM = {"n_routed_experts": E, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmoe": ("olmoe", SIZES | {"num_experts": E}),
    "mixtral": ("mixtral", SIZES | {"num_local_experts": E}),
    "qwen2_moe": ("qwen2_moe", QWEN | {"shared_expert_intermediate_size": 56, "mlp_only_layers": [1]}),
    "qwen3_moe": ("qwen3_moe", QWEN | {"num_hidden_layers": 8, "decoder_sparse_step": 2, "norm_topk_prob": True}),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2_greedy": ("deepseek_v2", DEEPSEEK | {"topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK | {"norm_topk_prob": True}),
    "gpt_oss": ("gpt_oss", SIZES | GPT_OSS | {"head_dim": 8, "num_local_experts": E}),
    "phimoe": ("phimoe", SIZES | {"num_local_experts": E, "num_experts_per_tok": 2, "router_jitter_noise": 0.2}),
    "granitemoe": ("granitemoe", SIZES | {"num_local_experts": E}),
    "glm4_moe": ("glm4_moe", SIZES | SMALL | GLM | {"norm_topk_prob": False, "routed_scaling_factor": 1.5}),
}
"""Name -> model type and configuration. Dense layers and shared experts have widths of their own."""

ERNIE = {"moe_num_experts": E, "moe_k": K, "moe_num_shared_experts": 1, "moe_layer_start_index": 1}
GEMMA = {"enable_moe_block": True, "num_experts": E, "top_k_experts": K, "vocab_size_per_layer_input": 300}
GEMMA |= {"hidden_size_per_layer_input": 4, "global_head_dim": 8, "sliding_window": 16, "num_hidden_layers": 4}
GEMMA |= {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
DEEPSEEK_V4 = {"num_hidden_layers": 4, "intermediate_size": 24, "num_key_value_heads": 1, "q_lora_rank": 12}
DEEPSEEK_V4 |= {"n_routed_experts": E, "o_groups": 2, "partial_rotary_factor": 0.5, "sliding_window": 16}
DEEPSEEK_V4 |= {"o_lora_rank": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4, "hc_mult": 2}
DEEPSEEK_V4 |= {"mlp_layer_types": ["hash_moe", "moe", "moe", "moe"]}
LONGCAT = {"num_layers": 4, "n_routed_experts": E, "zero_expert_num": 3, "moe_topk": K, "expert_ffn_hidden_size": 24}
LONGCAT |= {"ffn_hidden_size": 40, "qk_head_dim": 16, "head_dim": 8, "routed_scaling_factor": 2.5}
LONGCAT |= {name: value for name, value in DEEPSEEK.items() if name.endswith(("_rank", "qk_nope_head_dim"))}
LONGCAT |= {"qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4}
AFMOE = {"num_dense_layers": 1, "num_shared_experts": 1, "route_scale": 2.5, "sliding_window": 16}

MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("afmoe", QWEN | AFMOE),
    "deepseek_v4": ("deepseek_v4", SIZES | SMALL | DEEPSEEK_V4),
    "ernie4_5_moe": ("ernie4_5_moe", SIZES | SMALL | ERNIE),
    "gemma4": ("gemma4_text", SIZES | SMALL | GEMMA),
    "hy_v3": ("hy_v3", QWEN | {"num_shared_experts": 1, "router_scaling_factor": 2.5}),
    "llama4": ("llama4_text", SIZES | {"num_local_experts": E, "head_dim": 8, "intermediate_size_mlp": 40}),
    "longcat_flash": ("longcat_flash", {k: v for k, v in SIZES.items() if "layers" not in k} | LONGCAT),
    "minimax_m2": ("minimax_m2", SIZES | {"num_local_experts": E, "head_dim": 8}),
}
"""As FAMILIES, of later kinds: see :mod:`tests.traces.models.test_families`."""

ROUTED_LAYERS = {
    "qwen2_moe": (0, 2, 3, 4),
    "qwen3_moe": (1, 3, 5, 7),
    "olmoe": (0, 1, 2, 3),
    "deepseek_v3": (1, 2, 3, 4),
}
ROUTED_LAYERS |= dict.fromkeys(("mixtral", "gpt_oss", "phimoe", "granitemoe"), (0, 1, 2, 3))
ROUTED_LAYERS |= dict.fromkeys(("deepseek_v2", "deepseek_v2_greedy", "glm4_moe"), (1, 2, 3, 4))


def build(model_type: str, **sizes: Any) -> Any:
    """A random model in evaluation mode; biases are random too, and a router's lie near 5, as DeepSeek-V3's do."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **sizes))
    for name, parameter in model.named_parameters():
        # Some versions leave some routers at zero, where all experts are equal.
        if name.endswith("bias") or not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(("e_score_correction_bias", "expert_bias")):
            torch.nn.init.normal_(tensor, mean=5.0, std=0.3)
        if name.endswith("per_expert_scale"):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        if name.endswith("tid2eid"):
            tensor.copy_(torch.rand(len(tensor), E).argsort(dim=-1)[:, : tensor.shape[1]])
    return model.eval()


def tiny(family: str, **changed: Any) -> Any:
    """A tiny random model of one of FAMILIES or MORE."""
    model_type, sizes = (FAMILIES | MORE)[family]
    return build(model_type, **sizes | changed)


def minimax() -> Any:
    """Its first layer is linear attention, which keeps no keys: its cache says that it holds 0 tokens."""
    layers = ["linear_attention", "full_attention"] * 2
    return build("minimax", **SIZES, num_local_experts=E, head_dim=8, layer_types=layers)


RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])
"""Of the installed library."""
SINCE = dict.fromkeys(("aria_text", "jamba", "longcat_flash"), (5, 23))
"""Before, their routers keep their logits to themselves, which refuses them."""


def there(family: str) -> str:
    """The family; skips where the installed library is too old for it."""
    if SINCE.get(family, RELEASE) > RELEASE:
        pytest.skip("its router keeps its logits to itself in this release")
    return family


def spied_pass(
    model: Any, ids: Any = TOKENS, real: Any = None, signals: frozenset[str] = ALL, **inputs: Any
) -> tuple[dict[str, Any], list[Any], Any]:
    """What a pass recorded (two layers looked ahead), what each experts module was called with, and the logits."""
    from traces.collect.recorder import Recorder
    from traces.models.families import inspect_model

    moe, calls = inspect_model(model), list[Any]()
    recorder = Recorder(moe, signals, ahead=2)
    with ExitStack() as undo, torch.inference_mode():
        for layer in moe.layers:
            handle = layer.experts.register_forward_pre_hook(lambda _module, args: calls.append(args))
            undo.callback(handle.remove)
        undo.enter_context(recorder.attached())
        logits = model(input_ids=ids, use_cache=False, **inputs).logits
        arrays = recorder.pass_over(ids, real)
    return arrays, calls, logits


def save_with_tokenizer(model: Any, folder: Path) -> Path:
    """Save `model` with a tokenizer of one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise).save_pretrained(folder)
    return folder


def configured(folder: Path, **changed: Any) -> Path:
    """The folder of a model, with other settings in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder
