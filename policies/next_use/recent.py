"""What a layer's routing was of late: running averages, ages, scores. The same for a policy and for what it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
BEFORE = (8.0, 32.0)
"""Tokens that the train requests' shares count for beside those of the sequence under way."""


def choices(ids: NDArray[np.integer], n_experts: int) -> NDArray[np.bool_]:
    """Who is named in ``ids`` [..., K], [..., E]; absent ones are none."""
    flat = np.minimum(ids.reshape(-1, ids.shape[-1]), n_experts).astype(np.intp)
    marks = np.zeros((len(flat), n_experts + 1), np.bool_)
    if len(flat) == 1:
        marks[0, flat[0]] = True
    else:
        marks[np.arange(len(flat))[:, None], flat] = True
    return marks[:, :-1].reshape(*ids.shape[:-1], n_experts)


@dataclass(slots=True)
class Part:
    """What is kept of some layers: averages and what comes of them [layers, *, E], then one of each [layers, E]."""

    chosen: Reals
    logs: Reals
    shares: Reals
    prior: Reals
    ages: Reals
    last: Reals
    age: Reals
    counts: Reals
    rows: Reals
    score: Reals
    scored: Reals | None


class Recent:
    """The state of ``n_layers`` layers: what an estimate is made from is ``table``, [layers, features, E].

    Time is counted in tokens of the layer, whoever's they are; with several requests in a pass their rows come in turn.
    ``scores``: whether the router's scores over all experts are known. ``popular``: the share of tokens that chooses
    each expert, [L, E], as far as is known. ``shares``: whether those of the sequence under way are features.
    """

    def __init__(
        self,
        n_layers: int,
        n_experts: int,
        *,
        scores: bool,
        popular: Reals | None = None,
        shares: bool = True,
        decays: Sequence[float] = DECAYS,
    ) -> None:
        n, m = len(decays), len(BEFORE) * shares
        self.n_experts, self.decays = n_experts, np.array(decays)
        self.table = np.zeros((n_layers, 2 * n + 2 + m + (n + 1 if scores else 0), n_experts))
        self.chosen = self.table[:, :n]
        """Averages of being chosen; after them their logarithms, that of the age, whether it is 0, and of the sequence
        under way the logarithm of the share of its tokens."""
        self._logs, self._ages, self._last = self.table[:, n : 2 * n], self.table[:, 2 * n], self.table[:, 2 * n + 1]
        self._logs[:] = np.log(FLOOR)
        self.age = np.full((n_layers, n_experts), NEVER)
        """Tokens since the last choice; 0: by the last one."""
        self._ages[:] = np.log1p(NEVER)
        popular = np.full(self.age.shape, 0.5) if popular is None else popular
        self._shares, self._before = self.table[:, 2 * n + 2 : 2 * n + 2 + m], np.array(BEFORE[:m])[:, None]
        self._prior, self._at_first = self._before * popular[:, None], np.log(popular)[:, None]
        self._counts, self._rows = np.zeros((n_layers, 1, n_experts)), np.zeros((n_layers, 1, 1))
        self.begin()
        self.scored = self.table[:, 2 * n + 2 + m : -1] if scores else None
        """Averages of the logarithm of the score; after them that of the last one."""
        self._fading, self._coming = self.decays[:, None], 1 - self.decays[:, None]
        self._kept = self.decays[:, None] ** np.arange(LONGEST - 1, -1, -1)  # [J, rows], the last row's is 1
        self._parts: dict[tuple[int, int], Part] = {}

    def begin(self) -> None:
        """Another sequence begins: averages fade as they do, its own shares start anew."""
        self._counts[:], self._rows[:] = 0, 0
        self._shares[:] = self._at_first

    def see(
        self, layers: slice, ids: NDArray[np.integer], probs: NDArray[np.floating] | None = None
    ) -> NDArray[np.bool_]:
        """Rows have been routed in ``layers``: ``ids`` [rows, layers, K], ``probs`` [rows, layers, E].

        Who was chosen, [rows, layers, E], of the last LONGEST rows.
        """
        ids = ids[-LONGEST:]
        marks, part = choices(ids, self.n_experts), self._part(layers)
        logs = None
        if part.scored is not None and probs is not None:
            logs = np.log(np.maximum(probs[-LONGEST:].astype(np.float64), LEAST_SCORE))
        self._fade(part.chosen, marks)
        if len(ids) == 1:
            part.age += 1
            part.age[marks[0]] = 0
        else:
            part.age[:] = np.where(marks.any(0), marks[::-1].argmax(0), part.age + len(ids))
        np.log(np.add(part.chosen, FLOOR, out=part.logs), out=part.logs)
        np.log1p(part.age, out=part.ages)
        np.equal(part.age, 0, out=part.last)
        part.counts += (marks[0] if len(ids) == 1 else marks.sum(0))[:, None]
        part.rows += len(ids)
        np.add(part.counts, part.prior, out=part.shares)
        part.shares /= part.rows + self._before
        np.log(part.shares, out=part.shares)
        if part.scored is not None and logs is not None:
            self._fade(part.scored, logs)
            part.score[:] = logs[-1]
        return marks

    def _part(self, layers: slice) -> Part:
        """Of these layers all that a row changes, as views, which take longer to make than to use."""
        start, stop, _ = layers.indices(len(self.age))
        found = self._parts.get((start, stop))
        if found is None:
            found = Part(
                chosen=self.chosen[layers],
                logs=self._logs[layers],
                shares=self._shares[layers],
                prior=self._prior[layers],
                ages=self._ages[layers],
                last=self._last[layers],
                age=self.age[layers],
                counts=self._counts[layers],
                rows=self._rows[layers],
                score=self.table[layers, -1],
                scored=None if self.scored is None else self.scored[layers],
            )
            self._parts[start, stop] = found
        return found

    def take(self, other: Recent) -> None:
        """Be as the other is, of the same shape."""
        self.table[:], self.age[:] = other.table, other.age
        self._counts[:], self._rows[:] = other._counts, other._rows

    def _fade(self, averages: Reals, rows: NDArray[np.generic]) -> None:
        """Bring averages [layers, J, E] up to date with ``rows`` [rows, layers, E]."""
        if len(rows) == 1:
            averages *= self._fading
            averages += self._coming * rows[0][:, None]
        else:
            averages *= self._fading ** len(rows)
            weights = (1 - self.decays)[:, None] * self._kept[:, -len(rows) :]
            averages += np.tensordot(weights, rows.astype(np.float64), 1).transpose(1, 0, 2)


class Context:
    """Choices in all layers in a few components, ``basis`` [components, L, E]: this token's so far, and the last one's.

    The first half is of the layers whose gates have run, the second, of the token before, of those that are to come.
    """

    def __init__(self, basis: Reals) -> None:
        self.basis, width = np.ascontiguousarray(basis.transpose(1, 0, 2)), len(basis)
        self.at = np.zeros(2 * width)
        self._now, self._last = self.at[:width], self.at[width:]
        self._parts = np.zeros((basis.shape[1], width))  # of each layer, as of its last gate

    def see(self, layer: int, marks: NDArray[np.generic]) -> Reals:
        """A token has chosen in ``layer``, [E] (of several the mean). Both halves, valid until the next call."""
        if layer == 0:
            self._now[:], self._last[:] = 0, self._parts.sum(0)
        self._last -= self._parts[layer]
        self._parts[layer] = self.basis[layer] @ marks
        self._now += self._parts[layer]
        return self.at


def by_choice(basis: Reals) -> NDArray[np.float32]:
    """Of ``basis`` [components, L, E] what each choice adds, [L, E + 1, components]; the last is of an absent one."""
    return np.concatenate([basis, np.zeros((*basis.shape[:2], 1))], 2).transpose(1, 2, 0).astype(np.float32, order="C")


def contexts(
    adds: NDArray[np.float32], ids: NDArray[np.integer], before: NDArray[np.integer] | None
) -> NDArray[np.float32]:
    """What :class:`Context` has after each gate of tokens that come one by one, [n, L, 2 x components].

    ``adds``: of :func:`by_choice`; ``ids`` [n, L, K]; ``before`` [L, K]: the token before them, if any.
    """
    n_layers, n_experts = len(adds), adds.shape[1] - 1
    layers = np.arange(n_layers)[:, None]
    rows = ids if before is None else np.concatenate([before[None], ids])
    steps = np.stack([adds[layers, np.minimum(row, n_experts).astype(np.intp)].sum(1) for row in rows])
    so_far = steps.cumsum(1)
    last = np.zeros_like(so_far)
    last[1:] = so_far[:-1, -1:] - so_far[:-1]
    return np.concatenate([so_far, last], 2)[0 if before is None else 1 :]
