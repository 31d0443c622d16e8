"""What a layer's routing was of late: running averages, ages, scores. The same for a policy and for what it learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

DECAYS = (0.5, 0.75, 0.9, 0.97, 0.99)
"""Per token, of the running averages: from the last few tokens to the whole request."""
FLOOR = 0.01
"""Added to an average before its logarithm is taken: a choice per hundred tokens is told from none."""
LEAST_SCORE = 1e-6
"""Router scores below it are taken as it: float16 has few smaller ones."""
LONGEST = 1024
"""Rows of a pass that are looked at, the last ones: an average forgets the others."""
NEVER = 200.0
"""The age, in tokens, of what has not been seen."""


def choices(ids: NDArray[np.integer], n_experts: int) -> NDArray[np.bool_]:
    """Who is named in ``ids`` [..., K], [..., E]; absent ones are none."""
    marks = np.zeros((*ids.shape[:-1], n_experts + 1), np.bool_)
    np.put_along_axis(marks, np.minimum(ids, n_experts).astype(np.intp), True, axis=-1)
    return marks[..., :-1]


class Recent:
    """The state of ``n_layers`` layers, as arrays [feature, layer, expert].

    Time is counted in tokens of the layer, whoever's they are; with several requests in a pass their rows come in turn.
    ``scores``: whether the router's scores over all experts are known.
    """

    def __init__(self, n_layers: int, n_experts: int, *, scores: bool, decays: Sequence[float] = DECAYS) -> None:
        shape = len(decays), n_layers, n_experts
        self.n_experts, self.decays = n_experts, np.array(decays)
        self.chosen = np.zeros(shape)
        """Averages of being chosen."""
        self.scored = np.zeros(shape) if scores else None
        """Averages of the logarithm of the score."""
        self.age = np.full(shape[1:], NEVER)
        """Tokens since the last choice; 0: by the last one."""
        self.last_score = np.zeros(shape[1:])
        self._kept = self.decays[:, None] ** np.arange(LONGEST - 1, -1, -1)  # [J, rows], the last row's is 1

    def see(self, layers: slice, ids: NDArray[np.integer], probs: NDArray[np.floating] | None = None) -> None:
        """Rows have been routed in ``layers``: ``ids`` [rows, layers, K], ``probs`` [rows, layers, E]."""
        ids = ids[-LONGEST:]
        rows = len(ids)
        marks = choices(ids, self.n_experts)
        fade = (self.decays**rows)[:, None, None]
        weights = (1 - self.decays)[:, None] * self._kept[:, -rows:]
        self.chosen[:, layers] = fade * self.chosen[:, layers] + np.tensordot(weights, marks, 1)
        since = np.where(marks.any(0), marks[::-1].argmax(0), self.age[layers] + rows)
        self.age[layers] = since
        if self.scored is not None and probs is not None:
            logs = np.log(np.maximum(probs[-LONGEST:].astype(np.float64), LEAST_SCORE))
            self.scored[:, layers] = fade * self.scored[:, layers] + np.tensordot(weights, logs, 1)
            self.last_score[layers] = logs[-1]

    def features(self, layers: slice | int) -> Reals:
        """What an estimate is made from, [features, layers, E] or [features, E] for one layer."""
        age = self.age[layers][None]
        parts = [self.chosen[:, layers], np.log(self.chosen[:, layers] + FLOOR), np.log1p(age), age == 0]
        if self.scored is not None:
            parts += [self.scored[:, layers], self.last_score[layers][None]]
        return np.concatenate(parts)


class Context:
    """The last token's choices in all layers, in a few components: ``basis`` [components, L, E].

    Up to the layer whose gate has run these are of this token, beyond of the one before.
    """

    def __init__(self, basis: Reals) -> None:
        self.basis = basis
        self.at = np.zeros(len(basis))
        self._marks = np.zeros(basis.shape[1:])

    def see(self, layer: int, marks: NDArray[np.generic]) -> Reals:
        """A token has chosen in ``layer``, [E] (of several the mean). The components, valid until the next call."""
        self.at += self.basis[:, layer] @ (marks - self._marks[layer])
        self._marks[layer] = marks
        return self.at
