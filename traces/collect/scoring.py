"""How the routers of each family get from logits to a choice: what the collector checks every token against.

A router's *scores* are what its logits become before anything is chosen: softmax or sigmoid, over all E experts. Its
*choice* is what top-K is taken from, where that is not the scores. Its *weights* are what the experts receive.

    gpt_oss, granitemoe, mixtral    softmax; top-K of the scores [1]; weights: the scores / their sum over the K
    olmoe, qwen2_moe, qwen3_moe     softmax; top-K of the scores; weights: the scores, / their sum if `norm_topk_prob`
    phimoe                          softmax; top-2 of the scores [1]; weights: sparsemixer [2]
    deepseek_v2                     softmax; top-K of the scores, if `group_limited_greedy` within the groups that have
                                    the highest maxima; weights: the scores x `routed_scaling_factor`
    deepseek_v3, glm4_moe           sigmoid; top-K of scores + bias, within the groups whose two best sum highest;
                                    weights: the scores without the bias, / their sum if `norm_topk_prob`,
                                    x `routed_scaling_factor`
    any other                       as deepseek_v3 where the router has an `e_score_correction_bias`, else as olmoe;
                                    weights: in proportion to the scores

[1] The library takes the top-K of the logits, which is the same: softmax keeps their order. The softmax over the K
chosen logits alone (gpt_oss, granitemoe) is the softmax over all, divided by its sum over the K.
[2] The weight of the best expert is its share in a softmax over those experts whose logit l is near the largest one, m:
(m - l) / max(|l|, m) <= 2 x `router_jitter_noise`; that of the second likewise, with the best one left out. So both can
be 1, and the second can outweigh the first (arXiv:2409.12136).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from traces.errors import UserError

_BARRED = float("-inf")
_TINY = 1e-20  # a sum of sigmoids can underflow to 0


@dataclass(frozen=True, eq=False)
class Law:
    """One router's law; see the table above. `bias`: [E]; `normalised` None: any factor per token will do."""

    scoring: str
    normalised: bool | None
    factor: float = 1.0
    bias: Tensor | None = None
    groups: int = 1
    open_groups: int = 1
    group_best: int = 1
    """A group is worth the sum of so many of its best."""
    jitter: float | None = None
    """Of sparsemixer; None: the weights are the scores."""

    @property
    def has_choice(self) -> bool:
        """Whether top-K is taken from something else than the scores."""
        return self.bias is not None or self.open_groups < self.groups

    @property
    def offset(self) -> float:
        """What the recorded choice is less by: the bias's mean.

        Biases drift together in training (those of DeepSeek-V3 lie near 5), where float16 is too coarse for scores
        that differ by a thousandth. A constant changes neither the order nor which groups are open.
        """
        return 0.0 if self.bias is None else float(self.bias.float().mean())

    def scores(self, logits: Tensor) -> Tensor:
        """float32 [n, E], 0 to 1, of `logits` [n, E]."""
        return logits.float().sigmoid() if self.scoring == "sigmoid" else logits.float().softmax(dim=-1)

    def choice(self, scores: Tensor) -> Tensor:
        """What top-K is taken from, [n, E]: -inf where an expert's group is not open to the token."""
        if self.bias is not None:
            scores = scores + self.bias.to(scores.device)
        if self.open_groups == self.groups:
            return scores
        grouped = scores.reshape(len(scores), self.groups, -1)
        worth = grouped.topk(self.group_best, dim=-1).values.sum(dim=-1)
        best = worth.topk(self.open_groups, dim=-1, sorted=False).indices
        barred = torch.ones_like(worth, dtype=torch.bool).scatter(-1, best, False)
        return grouped.masked_fill(barred[..., None], _BARRED).flatten(1)

    def weights(self, logits: Tensor, scores: Tensor, ids: Tensor, given: Tensor) -> Tensor:
        """What the experts `ids` [n, K] should have received, float32 [n, K], where they received `given` [n, K].

        `scores` [n, E]: those of `logits` [n, E].
        """
        ids = ids.clamp(0, logits.shape[-1] - 1)  # numbers out of range are refused elsewhere; on a GPU they abort
        if self.jitter is not None:
            return _sparsemixer(logits, ids, self.jitter)
        picked = scores.gather(-1, ids)
        shares = picked / (picked.sum(dim=-1, keepdim=True) + _TINY)
        if self.normalised is None:
            return shares * given.float().sum(dim=-1, keepdim=True)
        return (shares if self.normalised else picked) * self.factor


def _sparsemixer(logits: Tensor, ids: Tensor, jitter: float) -> Tensor:
    # In the logits' own dtype, as the router does: in another one, an expert at the edge would change sides.
    first = logits.max(dim=-1, keepdim=True).indices

    def share(left: Tensor) -> Tensor:
        largest = left.max(dim=-1, keepdim=True).values
        far = (largest - logits) / torch.maximum(logits.abs(), largest) > 2 * jitter
        return left.masked_fill(far, _BARRED).softmax(dim=-1).float().gather(-1, ids)

    return torch.where(ids == first, share(logits), share(logits.scatter(-1, first, _BARRED)))


def _divided(_router: Any) -> Law:
    return Law("softmax", normalised=True)


def _plain_or_divided(router: Any) -> Law:
    return Law("softmax", normalised=bool(router.norm_topk_prob))


def _phimoe(router: Any) -> Law:
    if router.top_k != 2:
        raise UserError(f"num_experts_per_tok={router.top_k}; allowed for phimoe: 2, what its router chooses")
    return Law("softmax", normalised=False, jitter=float(router.router_jitter_noise))


def _deepseek_v2(router: Any) -> Law:
    method, factor = router.topk_method, float(router.routed_scaling_factor)
    if method == "greedy":
        return Law("softmax", normalised=False, factor=factor)
    if method != "group_limited_greedy":
        raise UserError(f"topk_method={method!r}; allowed for deepseek_v2: greedy, group_limited_greedy")
    groups, open_groups = int(router.num_group), int(router.topk_group)
    return Law("softmax", normalised=False, factor=factor, groups=groups, open_groups=open_groups)


def _biased_sigmoid(router: Any) -> Law:
    return Law(
        "sigmoid",
        normalised=bool(router.norm_topk_prob),
        factor=float(router.routed_scaling_factor),
        bias=_tensor(router, "e_score_correction_bias"),
        groups=int(router.num_group),
        open_groups=int(router.topk_group),
        group_best=2,
    )


def _by_structure(router: Any) -> Law:
    if router.top_k < 2:
        raise UserError(f"num_experts_per_tok={router.top_k}: a single weight shows no proportions; allowed: 2 or more")
    if getattr(router, "e_score_correction_bias", None) is None:
        return Law("softmax", normalised=None)
    return Law(
        "sigmoid",
        normalised=None,
        bias=_tensor(router, "e_score_correction_bias"),
        groups=int(getattr(router, "num_group", 1)),
        open_groups=int(getattr(router, "topk_group", 1)),
        group_best=2,
    )


FAMILIES: Mapping[str, Callable[[Any], Law]] = {
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _biased_sigmoid,
    "glm4_moe": _biased_sigmoid,
    "gpt_oss": _divided,
    "granitemoe": _divided,
    "mixtral": _divided,
    "olmoe": _plain_or_divided,
    "phimoe": _phimoe,
    "qwen2_moe": _plain_or_divided,
    "qwen3_moe": _plain_or_divided,
}
"""Model type -> the law of one of its routers. A family enters with tests that recompute its scores by hand."""


def law_of(family: str, router: Any) -> Law:
    """The law of `router`, of model type `family`; UserError where its settings follow none."""
    law = FAMILIES.get(family, _by_structure)(router)
    n_open = int(router.num_experts) // law.groups * law.open_groups if law.groups > 1 else router.top_k
    if n_open < router.top_k:
        grouping = f"n_group={law.groups}, topk_group={law.open_groups}"
        raise UserError(f"{grouping} leave {n_open} experts to choose {router.top_k} from; allowed: that many or more")
    return law


def _tensor(router: Any, name: str) -> Tensor:
    """A parameter or buffer, also one that accelerate keeps elsewhere until the module runs."""
    tensor: Tensor = getattr(router, name)
    if tensor.is_meta:
        from accelerate.utils import align_module_device

        with align_module_device(router):
            tensor = getattr(router, name).clone()
    return tensor.detach()
