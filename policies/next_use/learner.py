"""Learning goes on while requests are served: what each token shows is added to what the train requests showed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.next_use.fit import Discount, Estimate
from policies.next_use.recent import Recent, by_choice, choices, contexts

NEGLIGIBLE = 0.02
"""Of a label: a next use that is discounted below it is as good as none."""
LONGEST_WAIT = 32
"""Tokens that are waited for, however little a use is discounted."""
BLOCK = 32
"""Tokens that are added at a time."""
SOLVE_EVERY = 64
"""Tokens after which the regression is solved anew."""
MOST_OF_A_PASS = 256
"""Rows of a pass that are learned from, the last ones."""


class Learner:
    """The second step of an estimate, kept up: its sums grow by every token of which it is known what came after.

    A token is learned from when its label is known, ``wait`` tokens later or, as BLOCK are added at a time, up to BLOCK
    more: nothing of the future is in it.
    Rows are of one request, or of one after the other. O(L x E x (features + wait + components)) per token.
    """

    def __init__(self, estimate: Estimate, discount: Discount, *, scores: bool, shares: bool = True) -> None:
        assert estimate.sums is not None
        width, (n_layers, n_experts) = len(estimate.mean), estimate.offsets.shape
        self.first, self.n_experts = estimate, n_experts
        self.adds, self.mean = by_choice(estimate.basis), estimate.mean.astype(np.float32)
        copied = (part.copy() for part in (estimate.sums.squares, estimate.sums.products, estimate.sums.penalty))
        self.sums = type(estimate.sums)(*copied)
        worth = discount.of(np.arange(LONGEST_WAIT))
        self.wait = int((worth > NEGLIGIBLE).sum()) or 1
        self.recent = estimate.recent(scores=scores, shares=shares)
        self.before: NDArray[np.integer] | None = None
        self.discounts = worth[self.wait - 1 :: -1, None, None]  # of the last rows, the latest last
        room = self.wait + BLOCK
        self.own = np.zeros((room, n_layers, n_experts), np.float32)
        self.sooner = np.zeros_like(self.own)
        self.at = np.zeros((room, n_layers, width), np.float32)
        self.kept, self.added, self.solved = 0, 0, 0

    def begin(self, recent: Recent) -> None:
        """A pass of several rows begins, and ``recent`` is what was seen before it."""
        self.recent.take(recent)

    def see(
        self, ids: NDArray[np.integer], probs: NDArray[np.floating] | None, recent: Recent | None = None
    ) -> Estimate | None:
        """A pass has ended: ``ids`` [rows, L, K], ``probs`` [rows, L, E]. A better estimate, in time.

        ``recent``: what has been seen with it, which is enough for a pass of one row; else its rows are seen here.
        """
        old = len(ids) - MOST_OF_A_PASS
        if old > 0:
            self.recent.see(slice(None), ids[:old], None if probs is None else probs[:old])
            self.before = ids[old - 1]
            ids, probs = ids[old:], None if probs is None else probs[old:]
        at = contexts(self.adds, ids, self.before) - self.mean
        self.before = ids[-1]
        for row, chosen in enumerate(choices(ids, self.n_experts)):
            if recent is None or len(ids) > 1:
                self.recent.see(slice(None), ids[row : row + 1], None if probs is None else probs[row : row + 1])
            self._came(chosen)
            seen = self.recent if recent is None or len(ids) > 1 else recent
            self.own[self.kept], self.sooner[self.kept] = self.first.own(seen), 0
            self.at[self.kept] = at[row]
            self.kept += 1
        if self.added - self.solved < SOLVE_EVERY:
            return None
        self.solved = self.added
        return replace(self.first, turns=self.sums.turns())

    def _came(self, chosen: NDArray[np.bool_]) -> None:
        """A token has chosen, [L, E]: labels of those before it are at least so much."""
        since = min(self.wait, self.kept)
        labels = self.sooner[self.kept - since : self.kept]
        np.maximum(labels, self.discounts[self.wait - since :] * chosen, out=labels, casting="same_kind")
        if self.kept == len(self.own):
            self.sums.add(self.at[:BLOCK], self.sooner[:BLOCK] - self.own[:BLOCK])
            for part in (self.own, self.sooner, self.at):
                part[: self.wait] = part[BLOCK:].copy()
            self.kept, self.added = self.wait, self.added + BLOCK
