"""From a router's logits to its choice and its weights: what the collector checks every token against.

A router's *scores* are what its logits become before anything is chosen: softmax or sigmoid, over all E experts. Its
*choice* is what top-K is taken from, where that is not the scores. Its *weights* are what the experts receive. `laws`
says which family does what.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from traces.models.routers import RecordingError

_BARRED = float("-inf")
_TINY = 1e-20  # a sum of sigmoids can underflow to 0
_ROUNDING = 1e-6  # softmax in float32 may swap two logits that differ in their last bit


@dataclass(frozen=True, eq=False)
class Law:
    """One router's law; see `laws`. `bias`, `scale`: [E]; `normalised` None: any factor per token will do."""

    scoring: str
    """softmax; sigmoid; or sqrtsoftplus: sqrt(log(1 + exp(logit))), divided by its sum: a trace's scores are 0 to 1."""
    normalised: bool | None
    factor: float = 1.0
    scale: Tensor | None = None
    """What the weight of each expert is multiplied with at last."""
    bias: Tensor | None = None
    on_logits: bool = False
    """The bias is added to the logits, and not to the scores."""
    table: Tensor | None = None
    """[V, K]: the experts of each token of the vocabulary, whatever their scores (hash routing)."""
    native: bool = False
    """The router computes its scores in the type of its logits: what rounds alike there is a tie."""
    barred: float = _BARRED
    """The choice of an expert whose group is not open."""
    groups: int = 1
    open_groups: int = 1
    group_best: int = 1
    """A group is worth the sum of so many of its best."""
    jitter: float | None = None
    """Of sparsemixer; None: the weights are the scores."""

    @property
    def has_choice(self) -> bool:
        """Whether top-K is taken from something else than the scores."""
        return self.bias is not None or self.table is not None or self.open_groups < self.groups

    @property
    def offset(self) -> float:
        """What the recorded choice is less by: the bias's mean.

        Biases drift together in training (those of DeepSeek-V3 lie near 5), where float16 is too coarse for scores
        that differ by a thousandth. A constant changes neither the order nor which groups are open.
        """
        return 0.0 if self.bias is None else float(self.bias.float().mean())

    def scores(self, logits: Tensor) -> Tensor:
        """float32 [n, E], 0 to 1, of `logits` [n, E]."""
        raw = self._raw(logits.float())
        return raw / (raw.sum(dim=-1, keepdim=True) + _TINY) if self.scoring == "sqrtsoftplus" else raw

    def logits(self, scores: Tensor) -> Tensor:
        """Logits [n, E] that have these scores; of softmax and sqrtsoftplus some of many."""
        if self.scoring == "softmax":
            return scores.log()
        return scores.logit() if self.scoring == "sigmoid" else (scores**2).expm1().log()

    def choice(self, logits: Tensor, scores: Tensor, tokens: Tensor | None = None) -> Tensor:
        """What top-K is taken from, [n, E]: -inf where an expert is not open to the token.

        `scores` [n, E]: those of `logits` [n, E]. `tokens` [n]: for a law with a table.
        """
        if self.on_logits:
            scores = logits.float()
        elif self.native or self.scoring == "sqrtsoftplus":  # not divided by their sum: that is not where a bias goes
            scores = self._raw(logits if self.native else logits.float())
        if self.table is not None:
            assert tokens is not None
            theirs = self.table.to(tokens.device)[tokens].to(scores.device).long()
            return torch.full_like(scores, _BARRED).scatter(-1, theirs, scores.gather(-1, theirs)).float()
        if self.bias is not None:
            scores = scores + self.bias.to(scores.device)
        scores = scores.float()
        if self.open_groups == self.groups:
            return scores
        grouped = scores.reshape(len(scores), self.groups, -1)
        worth = grouped.topk(self.group_best, dim=-1).values.sum(dim=-1)
        best = worth.topk(self.open_groups, dim=-1, sorted=False).indices
        barred = torch.ones_like(worth, dtype=torch.bool).scatter(-1, best, False)
        return grouped.masked_fill(barred[..., None], self.barred).flatten(1)

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
        weights = (shares if self.normalised else picked) * self.factor
        return weights if self.scale is None else weights * self.scale.float().to(ids.device)[ids]

    def _raw(self, logits: Tensor) -> Tensor:
        if self.scoring == "softmax":
            return logits.softmax(dim=-1)
        return logits.sigmoid() if self.scoring == "sigmoid" else softplus(logits).sqrt()


def _sparsemixer(logits: Tensor, ids: Tensor, jitter: float) -> Tensor:
    # In the logits' own dtype, as the router does: in another one, an expert at the edge would change sides.
    first = logits.max(dim=-1, keepdim=True).indices

    def share(left: Tensor) -> Tensor:
        largest = left.max(dim=-1, keepdim=True).values
        far = (largest - logits) / torch.maximum(logits.abs(), largest) > 2 * jitter
        return left.masked_fill(far, _BARRED).softmax(dim=-1).float().gather(-1, ids)

    return torch.where(ids == first, share(logits), share(logits.scatter(-1, first, _BARRED)))


def check_routing(choice: NDArray[Any], ids: NDArray[Any], weights: NDArray[Any], expected: NDArray[Any]) -> None:
    """Raise RecordingError, naming the layer, unless tokens chose as the law of their router says.

    `ids` [n, L, K] must be different experts, the top-K of `choice` [n, L, E] (ties may be broken either way), and
    `weights` [n, L, K] must be `expected` but for what bfloat16 rounds away.
    """
    E = choice.shape[-1]

    def refuse(bad: NDArray[Any], message: str) -> None:
        if bad.any():
            layer = int(np.argmax(bad.any(axis=0)))
            raise RecordingError(f"layer {layer}: {message}")

    refuse(((ids < 0) | (ids >= E)).any(axis=-1), f"an expert's number is not 0 to {E - 1}")
    refuse(np.isnan(choice).any(axis=-1), "a score is not a number")
    chosen = np.zeros(choice.shape, bool)
    np.put_along_axis(chosen, ids, True, axis=-1)
    refuse(chosen.sum(axis=-1) != ids.shape[-1], "a token chose an expert twice")
    lowest = np.where(chosen, choice, np.inf).min(axis=-1)
    highest = np.where(chosen, -np.inf, choice).max(axis=-1)
    refuse(np.isneginf(lowest), "a token chose an expert of a group that is not open to it")
    refuse(lowest < highest - _ROUNDING * np.abs(highest), "the chosen experts have not the highest scores")
    near = np.isclose(weights, expected, rtol=0.02, atol=1e-6)
    refuse(~near.all(axis=-1), "the weights do not follow from the scores")
