"""What fMoE takes from a forward pass: an expert map and an embedding for each of its iterations."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import PastStep, Signal, Signals
from policies.fmoe.maps import Reals, direction, distribution
from policies.signals import marks

Prefill = Literal["mean", "last", "unpredicted"]


class Contexts:
    """Reads contexts from signals; O(rows x E) per layer.

    Of several tokens of a request, the prefill, a map is the mean; an embedding is the mean, or the ``last`` token's.
    ``choices``: maps give an equal share to each chosen expert. ``embeds``: whether embeddings are read at all.
    """

    def __init__(self, n_experts: int, prefill: Prefill, *, choices: bool, embeds: bool) -> None:
        self.n_experts, self.prefill, self.choices, self.embeds = n_experts, prefill, choices, embeds

    def needs(self) -> frozenset[Signal]:
        """The signals that are read."""
        wanted = {Signal.ROUTER_PROBS: not self.choices, Signal.EMBEDDING: self.embeds}
        return frozenset(signal for signal, is_wanted in wanted.items() if is_wanted)

    def past(self, step: PastStep) -> tuple[Reals, Reals | None]:
        """Maps [n, L, E] and embeddings [n, D] of a train step: one, or one per token where prefill is unpredicted."""
        counts = [1] * step.rows if self.prefill == "unpredicted" else [step.rows]
        seen = marks(step.expert_ids(), self.n_experts) if self.choices else step.router_probs()
        maps = _total(seen.reshape(step.rows, -1), counts).reshape(len(counts), *seen.shape[1:])
        return distribution(maps), self.embedded(step.embedding(), counts) if self.embeds else None

    def shown(self, signals: Signals, counts: Sequence[int]) -> Reals:
        """What the current layer's gate shows of each request, [len(counts), E]."""
        seen = marks(signals.expert_ids(), self.n_experts) if self.choices else signals.router_probs()
        return distribution(_total(seen, counts))

    def embedded(self, rows: NDArray[np.float16], counts: Sequence[int]) -> Reals:
        """Embeddings of each request, [len(counts), D], of its rows [n, D]."""
        return direction(rows[np.cumsum(counts) - 1] if self.prefill == "last" else _total(rows, counts))


def _total(rows: NDArray[Any], counts: Sequence[int]) -> Reals:
    """Rows [n, X], summed over those of each request, [len(counts), X]: their mean, up to its length."""
    exact = rows.astype(np.float64)
    if len(counts) == len(rows):
        return exact
    ends = np.cumsum(counts)
    return np.add.reduceat(exact, ends - np.array(counts), axis=0)
