"""Token level: in which precision an expert is worth being loaded that is not there."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from traces.kit.errors import UserError

HIGH, LOW, SKIP = 0, 1, 2

Ids = NDArray[np.integer[Any]]
Reals = NDArray[np.float64]


def unimportance(weights: NDArray[Any], present: NDArray[np.bool_]) -> Reals:
    """Of each slot [..., K] the sum of the weights ranked before it, of all that its token has: 0 for the first.

    ``weights`` [..., K]: of the chosen experts, the largest first.
    """
    share = np.where(present, weights, 0).astype(np.float64)
    share /= np.maximum(share.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    before = np.zeros_like(share)
    np.cumsum(share[..., :-1], axis=-1, out=before[..., 1:])
    return before


def of_one_token(weights: list[float]) -> list[float]:
    """:func:`unimportance` of one token's experts, all of them present; without numpy, as most events have one."""
    total, before, found = sum(weights), 0.0, list[float]()
    for weight in weights:
        found.append(before)
        before += weight / total if total else 0.0
    return found


def least_by_expert(ids: Ids, unimportant: Reals, n_experts: int) -> Reals:
    """The least unimportance that any token of ``ids`` [rows, K] gives an expert, [E]; inf: nobody chose it."""
    least = np.full(n_experts + 1, np.inf)
    np.minimum.at(least, np.minimum(ids, n_experts).ravel(), unimportant.ravel())
    return least[:n_experts]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Above ``t1`` a missing expert comes in low precision (if there is one), above ``t2`` not at all."""

    t1: float
    t2: float
    lower: bool

    @classmethod
    def read(cls, given: str, *, lower: bool) -> Self:
        """Of T1/T2. UserError for anything else."""
        allowed = "two shares T1/T2 of a token's weight, 0 to 1, T1 at most T2, as 0.6/0.9"
        try:
            t1, t2 = (float(word) for word in given.split("/"))
        except ValueError:
            raise UserError(f"policy.thresholds={given}: not two numbers; allowed: {allowed}") from None
        if not 0 <= t1 <= t2 <= 1:
            why = "out of order" if 0 <= t2 < t1 <= 1 else "out of range"
            raise UserError(f"policy.thresholds={given}: {why}; allowed: {allowed}")
        return cls(t1, t2, lower)

    def missing(self, unimportant: float) -> int:
        """What to load of an expert that is not there."""
        if unimportant <= self.t1:
            return HIGH
        if unimportant > self.t2:
            return SKIP
        return LOW if self.lower else HIGH
