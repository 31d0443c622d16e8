"""Each family's routing, token by token in float64, from its paper's sums and its configuration alone."""

from typing import Any

import numpy as np

_SOFTMAX = {"olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "gpt_oss", "phimoe", "granitemoe"}
_SOFTMAX |= {"ernie4_5_moe", "gemma4", "longcat_flash"}
_BY_SETTING = {"olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v3", "glm4_moe"}
"""Whose weights are divided by their sum if `norm_topk_prob` says so."""
_WHOLE = {"deepseek_v2", "llama4", "longcat_flash"}
"""Whose weights never are."""
_FACTORS = {"afmoe": "route_scale", "hy_v3": "router_scaling_factor"} | dict.fromkeys(
    ("deepseek_v2", "deepseek_v3", "deepseek_v4", "glm4_moe", "longcat_flash"), "routed_scaling_factor"
)


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


def _weight(tensors: dict[str, Any]) -> Any:
    names = ("weight", "gate.weight", "proj.weight", "classifier.weight")
    return next(tensors[name] for name in names if name in tensors)


def bias_of(router: Any, block: Any) -> Any:
    """What is added to the scores: of the router, of a part of it, or of the block that it is in."""
    tensors = [*router.named_buffers(), *router.named_parameters()]
    tensors += [*block.named_buffers(recurse=False), *block.named_parameters(recurse=False)]
    found = [x for name, x in tensors if name.rpartition(".")[2] in ("e_score_correction_bias", "expert_bias")]
    return found[0].detach().double().numpy().reshape(-1) if found else 0.0


def _scores(family: str, logits: Any) -> Any:
    if family == "deepseek_v4":
        return np.sqrt(np.log1p(np.exp(logits)))
    if family not in _SOFTMAX:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def route(config: Any, router: Any, block: Any, hidden: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """Scores, choice (-inf where barred; the bias as it is) and weights (0 where not chosen), [n, E], of `hidden`.

    E counts what computes nothing (LongCat's) too. `tokens` [n]: for a choice by table.
    """
    family = config.model_type.removesuffix("_text")
    of = {name: x.detach().double().numpy() for name, x in [*router.named_parameters(), *router.named_buffers()]}
    rows = hidden.double().numpy()
    if family == "gemma4":
        rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + config.rms_norm_eps)
        rows = rows * of["scale"] / np.sqrt(rows.shape[1])
    logits = rows @ _weight(of).T + of.get("bias", 0.0)
    scores = _scores(family, logits)
    choice, weights = scores + bias_of(router, block), np.zeros_like(scores)
    top_k = config.top_k_experts if family == "gemma4" else config.num_experts_per_tok
    factor = getattr(config, _FACTORS[family]) if family in _FACTORS else 1.0
    for row, token in enumerate(tokens):
        allowed = list(range(len(scores[row])))
        if family in ("deepseek_v3", "glm4_moe"):
            allowed = _open_experts(config, choice[row], 2)
        elif family == "deepseek_v2" and config.topk_method == "group_limited_greedy":
            allowed = _open_experts(config, choice[row], 1)
        elif "tid2eid" in of:
            allowed, choice[row] = [int(expert) for expert in of["tid2eid"][token]], scores[row]
        choice[row, [expert for expert in range(len(scores[row])) if expert not in allowed]] = -np.inf
        if family == "phimoe":
            mixed = _sparsemixer(config, logits[row])
            weights[row, list(mixed)] = list(mixed.values())
            continue
        chosen = sorted(allowed, key=lambda expert, own=choice[row]: -own[expert])[:top_k]  # type: ignore[misc]
        divided = config.norm_topk_prob if family in _BY_SETTING else family not in _WHOLE
        weights[row, chosen] = factor * scores[row, chosen] / (scores[row, chosen].sum() if divided else 1.0)
    return scores, choice, weights * of.get("per_expert_scale", 1.0)
