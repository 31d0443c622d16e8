"""Each family's routing, token by token in float64, from its paper's sums and its configuration alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _open_experts(config: Any, choice: Any, best: int) -> list[int]:
    """The experts of the `topk_group` groups that are worth most, a group being worth its `best` best together."""
    groups = np.split(np.arange(len(choice)), config.n_group)
    by_worth = sorted(groups, key=lambda group: -np.sort(choice[group])[-best:].sum())
    return [int(expert) for group in by_worth[: config.topk_group] for expert in group]


def _sparsemixer(config: Any, logits: Any) -> dict[int, float]:
    weights, left = {}, list(range(len(logits)))
    for _ in range(2):
        best = max(left, key=lambda expert: logits[expert])
        top = logits[best]
        near = [e for e in left if (top - logits[e]) / max(abs(logits[e]), top) <= 2 * config.router_jitter_noise]
        weights[best] = 1 / sum(np.exp(logits[e] - top) for e in near)
        left.remove(best)
    return weights


def _token(family: str, config: Any, logits: Any, correction: Any) -> tuple[Any, Any, dict[int, float]]:
    sigmoid = family in ("deepseek_v3", "glm4_moe")
    scores = 1 / (1 + np.exp(-logits)) if sigmoid else _softmax(logits)
    choice, allowed = scores + correction, list(range(len(scores)))
    if sigmoid or (family == "deepseek_v2" and config.topk_method == "group_limited_greedy"):
        allowed = _open_experts(config, choice, 2 if sigmoid else 1)
    barred = np.full(len(scores), -np.inf)
    barred[allowed] = choice[allowed]
    if family == "phimoe":
        return scores, barred, _sparsemixer(config, logits)
    chosen = sorted(allowed, key=lambda expert: -choice[expert])[: config.num_experts_per_tok]
    factor = config.routed_scaling_factor if family in ("deepseek_v2", "deepseek_v3", "glm4_moe") else 1.0
    divides = family in ("mixtral", "gpt_oss", "granitemoe")
    if divides or (family != "deepseek_v2" and config.norm_topk_prob):
        factor /= scores[chosen].sum()
    return scores, barred, {expert: factor * scores[expert] for expert in chosen}


def route(config: Any, router: Any, hidden: Any) -> tuple[Any, Any, Any]:
    """Scores, choice (-inf where barred; the bias as it is) and weights (0 where not chosen), [n, E], of `hidden`."""
    tensors = dict([*router.named_parameters(), *router.named_buffers()])
    of = {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}
    logits = hidden.double().numpy() @ of["weight"].T + of.get("bias", 0.0)
    correction = of.get("e_score_correction_bias", np.zeros(logits.shape[1]))
    tokens = [_token(config.model_type, config, row, correction) for row in logits]
    weights = np.zeros_like(logits)
    for row, (_, _, chosen) in zip(weights, tokens, strict=True):
        row[list(chosen)] = list(chosen.values())
    return np.stack([scores for scores, _, _ in tokens]), np.stack([choice for _, choice, _ in tokens]), weights
