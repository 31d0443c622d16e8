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


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def _weight(tensors: dict[str, Any]) -> Any:
    names = ("weight", "gate.weight", "proj.weight", "classifier.weight")
    return next(tensors[name] for name in names if name in tensors)


def _bias(router: Any, block: Any) -> Any:
    """What is added to the scores: of the router, of a part of it, or of the block that it is in."""
    tensors = [*router.named_buffers(), *router.named_parameters()]
    tensors += [*block.named_buffers(recurse=False), *block.named_parameters(recurse=False)]
    found = [x for name, x in tensors if name.rpartition(".")[2] in ("e_score_correction_bias", "expert_bias")]
    return found[0].detach().double().numpy().reshape(-1) if found else 0.0


def route_more(
    config: Any, router: Any, block: Any, hidden: Any, tokens: Any
) -> tuple[Any, Any, list[dict[int, float]]]:
    """Of the families of tiny_models.MORE: scores and choice [n, E] of `hidden`, and each token's experts and weights.

    E counts what computes nothing (LongCat's) too. The choice has the bias as it is.
    """
    family = config.model_type.removesuffix("_text")
    of = {name: x.detach().double().numpy() for name, x in [*router.named_parameters(), *router.named_buffers()]}
    rows = hidden.double().numpy()
    if family == "gemma4":
        rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + config.rms_norm_eps)
        rows = rows * of["scale"] / np.sqrt(rows.shape[1])
    logits = rows @ _weight(of).T
    softmax = np.array([_softmax(row) for row in logits])
    scores = {
        "deepseek_v4": np.sqrt(np.log1p(np.exp(logits))),
        **dict.fromkeys(("ernie4_5_moe", "gemma4", "longcat_flash"), softmax),
    }.get(family, _sigmoid(logits))
    choice = scores + _bias(router, block)
    top_k = config.top_k_experts if family == "gemma4" else config.num_experts_per_tok
    chosen = [sorted(range(len(row)), key=lambda expert: -row[expert])[:top_k] for row in choice]
    if "tid2eid" in of:
        chosen = [[int(expert) for expert in of["tid2eid"][token]] for token in tokens]
        barred = np.full(choice.shape, -np.inf)
        for row, own, experts in zip(barred, scores, chosen, strict=True):
            row[experts] = own[experts]
        choice = barred
    factors = {"afmoe": "route_scale", "hy_v3": "router_scaling_factor"}
    factors |= dict.fromkeys(("deepseek_v4", "longcat_flash"), "routed_scaling_factor")
    factor = getattr(config, factors[family]) if family in factors else 1.0
    weights = []
    for row, experts in zip(scores, chosen, strict=True):
        share = 1.0 if family in ("llama4", "longcat_flash") else row[experts].sum()
        each = {expert: factor * row[expert] / share for expert in experts}
        if family == "gemma4":
            each = {expert: weight * of["per_expert_scale"][expert] for expert, weight in each.items()}
        weights.append(each)
    return scores, choice, weights
