"""Which law the routers of each family keep (see `scoring`).

Each is tested against sums done by hand:

    gpt_oss, granitemoe, mixtral    softmax; top-K of the scores [1]; weights: the scores / their sum over the K
    olmoe, qwen2_moe, qwen3_moe     softmax; top-K of the scores; weights: the scores, / their sum if `norm_topk_prob`
    phimoe                          softmax; top-2 of the scores [1]; weights: sparsemixer [2]
    deepseek_v2                     softmax; top-K of the scores, if `group_limited_greedy` within the groups that have
                                    the highest maxima; weights: the scores x `routed_scaling_factor`
    deepseek_v3, glm4_moe           sigmoid; top-K of scores + bias, within the groups whose two best sum highest;
                                    weights: the scores without the bias, / their sum if `norm_topk_prob`,
                                    x `routed_scaling_factor`
    deepseek_v4                     softmax, sigmoid or sqrtsoftplus; top-K of scores + bias, in its first layers the K
                                    that a table has for the token; weights: the scores / their sum, x
                                    `routed_scaling_factor`
    afmoe, hy_v3, minimax_m2        sigmoid; top-K of scores + bias; weights: the scores / their sum, x a factor
    ernie4_5_moe                    softmax; top-K of scores + bias; weights: the scores / their sum
    gemma4                          softmax; top-K of the scores; weights: the scores / their sum, x a scale per expert
    llama4                          sigmoid; top-K of the scores; weights: the scores, applied to what experts receive
    longcat_flash                   softmax; top-K of scores + bias; weights: the scores x `routed_scaling_factor`; some
                                    of what it chooses from is no expert, and computes nothing

Others are judged by their settings, or by their router's structure, and by every token that they route:

    axk2                            as deepseek_v3; without groups where it has none, and 0 for a group that is not open
    cohere2_moe                     softmax, divided, or sigmoid, / their sum if `norm_topk_prob`; top-K of the scores
    flint                           sigmoid; top-K of the scores; weights: the scores, / their sum if `norm_topk_prob`
    inkling2                        as deepseek_v4 without a table
    kolibri1                        sigmoid; top-K of logits + bias; weights: as flint
    lfm2_moe                        sigmoid; top-K of scores, + bias if it has one; weights: as flint, x a factor
    any other                       as deepseek_v3 where it has an `e_score_correction_bias`, else as olmoe;
                                    weights: in proportion to the scores

[1] The library takes the top-K of the logits, which is the same: softmax keeps their order. The softmax over the K
chosen logits alone (gpt_oss, granitemoe) is the softmax over all, divided by its sum over the K.
[2] The weight of the best expert is its share in a softmax over those experts whose logit l is near the largest one, m:
(m - l) / max(|l|, m) <= 2 x `router_jitter_noise`; that of the second likewise, with the best one left out. So both can
be 1, and the second can outweigh the first (arXiv:2409.12136).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from traces.kit.errors import UserError, one_of
from traces.models.scoring import Law

SCORINGS = ("softmax", "sigmoid", "sqrtsoftplus")
_SCALING = "routed_scaling_factor"


def _law(router: Any, block: Any, scoring: str, normalised: bool | None = None, factor: str = "", **more: Any) -> Law:
    """`normalised` None: as the router is set. `factor`: the name of its setting. With its bias, if it has one."""
    divided = bool(router.norm_topk_prob) if normalised is None else normalised
    scale = float(getattr(router, factor)) if factor else 1.0
    return Law(scoring, divided, factor=scale, bias=bias_of(router, block), **more)


def _phimoe(router: Any, block: Any) -> Law:
    if router.top_k != 2:
        raise UserError(f"num_experts_per_tok={router.top_k}; allowed for phimoe: 2, what its router chooses")
    return _law(router, block, "softmax", normalised=False, jitter=float(router.router_jitter_noise))


def _deepseek_v2(router: Any, block: Any) -> Law:
    groups: dict[str, Any] = {"groups": int(router.num_group), "open_groups": int(router.topk_group)}
    allowed: dict[str, dict[str, Any]] = {"greedy": {}, "group_limited_greedy": groups}
    if router.topk_method not in allowed:
        raise UserError(f"topk_method={router.topk_method!r}; allowed for deepseek_v2: {one_of(allowed)}")
    return _law(router, block, "softmax", normalised=False, factor=_SCALING, **allowed[router.topk_method])


def _grouped_sigmoid(router: Any, block: Any, **more: Any) -> Law:
    open_groups = int((router.num_group and router.topk_group) or 1)
    groups: dict[str, Any] = {"groups": int(router.num_group or 1), "open_groups": open_groups, "group_best": 2}
    return _law(router, block, "sigmoid", factor=_SCALING, **groups, **more)


def _by_score_function(router: Any, block: Any) -> Law:
    scoring = block.experts.config.scoring_func
    if scoring not in SCORINGS:
        raise UserError(f"scoring_func={scoring!r}; allowed: {one_of(SCORINGS)}")
    table = tensor_of(router, "tid2eid") if hasattr(router, "tid2eid") else None
    return _law(router, block, scoring, normalised=True, factor=_SCALING, native=True, table=table)


def _cohere2(router: Any, block: Any) -> Law:
    return (_DIVIDED if router.expert_selection_fn == "softmax" else _SIGMOID)(router, block)


def _by_structure(router: Any, block: Any) -> Law:
    bias = bias_of(router, block)
    if bias is None:
        return Law("softmax", normalised=None)
    groups, open_groups = (int(getattr(router, name, None) or 1) for name in ("num_group", "topk_group"))
    return Law("sigmoid", normalised=None, bias=bias, groups=groups, open_groups=open_groups, group_best=2)


MakeLaw = Callable[[Any, Any], Law]
_DIVIDED = partial(_law, scoring="softmax", normalised=True)
_AS_SET = partial(_law, scoring="softmax")
_SIGMOID = partial(_law, scoring="sigmoid")

FAMILIES: Mapping[str, MakeLaw] = {
    "afmoe": partial(_law, scoring="sigmoid", normalised=True, factor="route_scale"),
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _grouped_sigmoid,
    "deepseek_v4": _by_score_function,
    "ernie4_5_moe": _DIVIDED,
    "gemma4": lambda router, block: _DIVIDED(router, block, scale=tensor_of(router, "per_expert_scale")),
    "glm4_moe": _grouped_sigmoid,
    "gpt_oss": _DIVIDED,
    "granitemoe": _DIVIDED,
    "hy_v3": partial(_law, scoring="sigmoid", normalised=True, factor="router_scaling_factor"),
    "llama4": partial(_law, scoring="sigmoid", normalised=False),
    "longcat_flash": partial(_law, scoring="softmax", normalised=False, factor=_SCALING),
    "minimax_m2": partial(_law, scoring="sigmoid", normalised=True),
    "mixtral": _DIVIDED,
    "olmoe": _AS_SET,
    "phimoe": _phimoe,
    "qwen2_moe": _AS_SET,
    "qwen3_moe": _AS_SET,
}
"""Family -> the law of one of its routers, given that and its block. One enters with sums done by hand."""

OTHERS: Mapping[str, MakeLaw] = {
    "axk2": partial(_grouped_sigmoid, barred=0.0),
    "cohere2_moe": _cohere2,
    "flint": _SIGMOID,
    "inkling2": _by_score_function,
    "kolibri1": partial(_SIGMOID, on_logits=True),
    "lfm2_moe": partial(_SIGMOID, factor=_SCALING, native=True),
}
"""Those whose law their settings tell, and their structure does not."""


def law_of(family: str, router: Any, block: Any, top_k: int, n_choices: int) -> Law:
    """The law of `router`, of model type `family`; UserError where its settings follow none."""
    law = {**OTHERS, **FAMILIES}.get(family, _by_structure)(router, block)
    if law.normalised is None and top_k < 2:
        raise UserError(f"num_experts_per_tok={top_k}: a single weight shows no proportions; allowed: 2 or more")
    n_open = n_choices // law.groups * law.open_groups
    if law.groups > 1 and n_open < top_k:
        grouping = f"n_group={law.groups}, topk_group={law.open_groups}"
        raise UserError(f"{grouping} leave {n_open} experts to choose {top_k} from; allowed: that many or more")
    return law


def bias_of(router: Any, block: Any) -> Tensor | None:
    """[E]: what is added to the scores before top-K, wherever the family keeps it; None: nothing."""
    statics = getattr(router, "moe_statics", None)
    for holder in (router, statics, block):
        for name in ("e_score_correction_bias", "expert_bias"):
            if getattr(holder, name, None) is not None:
                return tensor_of(holder, name).reshape(-1)
    return None


def tensor_of(module: nn.Module | Any, name: str) -> Tensor:
    """A parameter or buffer, also one that accelerate keeps elsewhere until the module runs."""
    tensor: Tensor = getattr(module, name)
    if tensor.is_meta:
        from accelerate.utils import align_module_device

        with align_module_device(module):
            tensor = getattr(module, name).clone()
    return tensor.detach()
