"""The reference model's shape, and the pieces of it that training does its own way."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import OlmoeConfig, OlmoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from traces.reference.tokens import VOCABULARY

SORTED, GROUPED = "reference_sorted", "reference_grouped"


def build(seed: int) -> OlmoeForCausalLM:
    """OLMoE's routing (16 layers x 64 experts, top-8) at width 128: 14.8 M parameters, not yet trained."""
    torch.manual_seed(seed)
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=32,
            num_hidden_layers=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts=64,
            num_experts_per_tok=8,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


def sorted_experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Experts over rows sorted by expert: on a CPU a third faster to train than the library's.

    hidden [n, D], ids [n, K], weights [n, K] -> [n, D].
    """
    rows, top_k = ids.shape
    flat = ids.reshape(-1)
    order = flat.argsort()
    place = torch.empty_like(order)
    place[order] = torch.arange(rows * top_k, device=order.device)
    counts = torch.bincount(flat, minlength=module.num_experts).tolist()
    # unbind and split, not indexing: the gradient of an indexed expert is a zero tensor of all experts.
    gate_up, down = module.gate_up_proj.unbind(0), module.down_proj.unbind(0)
    inputs = torch.split(hidden.index_select(0, order // top_k), counts)
    inner = torch.cat([x @ w.T for x, w in zip(inputs, gate_up, strict=True)])
    inputs = torch.split(module._apply_gate(inner), counts)
    outputs = torch.cat([x @ w.T for x, w in zip(inputs, down, strict=True)])
    outputs = outputs.index_select(0, place).view(rows, top_k, -1)
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)


def grouped_experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The library's grouped kernel on bfloat16 copies of float32 weights: autocast does not reach into it."""
    names = ("num_experts", "has_gate", "has_bias", "has_post_expert_norm", "is_transposed")
    narrow: Any = SimpleNamespace(
        **{name: getattr(module, name) for name in names if hasattr(module, name)},  # of the release's asking
        _is_expert_parallel=False,
        _apply_gate=module._apply_gate,
        gate_up_proj=module.gate_up_proj.bfloat16(),
        down_proj=module.down_proj.bfloat16(),
    )
    output: Tensor = grouped_mm_experts_forward(narrow, hidden, ids, weights)
    return output


def balance_loss(router_logits: tuple[Tensor, ...], top_k: int) -> Tensor:
    """The load-balancing loss of every layer by itself, averaged; `top_k` when balanced.

    The library's pools the layers before it balances, so that two skewed layers may cancel out.
    """
    losses = []
    for logits in router_logits:
        probs = logits.float().softmax(-1)
        E = probs.shape[-1]
        load = torch.bincount(probs.topk(top_k).indices.reshape(-1), minlength=E) / len(probs)
        losses.append(E * (load * probs.mean(0)).sum())
    return torch.stack(losses).mean()


ALL_EXPERTS_FUNCTIONS.register(SORTED, sorted_experts)
ALL_EXPERTS_FUNCTIONS.register(GROUPED, grouped_experts)
