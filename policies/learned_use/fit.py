"""What is learned: how soon an expert is chosen again, from what was seen of it and of all layers at the last token.

Two steps, each linear, small and deterministic: a logistic regression on an expert's own features (recent.py), the same
for all experts, and for each layer a ridge regression of what that leaves on the last token's choices in all layers,
in a few principal components. How strong the ridge is, and whether there is one, the last fifth of the tokens says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.api import History, PastRequest
from policies.learned_use.recent import Context, Reals, Recent, choices

BEYOND = 400
"""Tokens to the next choice of what is not chosen again."""
MOST_ROWS = 4096
"""Tokens of the train requests that are learned from, the first ones."""
MOST_ENTRIES = 16_000_000
"""Of these, (token, layer, expert): a large model's tokens are fewer."""
MOST_EXAMPLES = 200_000
"""(token, layer, expert) that the logistic regression sees, evenly spaced in time."""
MOST_FOR_BASIS = 1500
"""Tokens that the principal components are of, evenly spaced."""
WARM_ROWS = 16
"""Tokens at the beginning that are no examples: averages are empty."""
HELD_OUT = 5
"""Of so many tokens the last ones choose the ridge."""
RIDGES = (0.1, 0.5, 2.0, 8.0)
"""Of the second step, in units of the components' mean square, summed over tokens."""
RIDGE = 1.0
"""Of the first step, features in units of their standard deviation."""
NEWTON_STEPS = 25
LEAST = 1e-4
"""Estimates lie between it and one minus it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected discount ^ (tokens to the next choice) of each expert."""

    weights: Reals
    """Of an expert's own features, [features]."""
    offsets: Reals
    """[L, E]: the intercept, and how popular the expert is."""
    basis: Reals
    """Of the last token's choices, [components, L, E]; none: without context."""
    mean: Reals
    """Of the components before they are centred, [components]."""
    turns: Reals
    """What the components add, [L, E, components]."""
    loss: float
    """Mean cross-entropy of the first step, nats."""
    ridge: float | None
    """Of the second step; None: it did not help on tokens held out."""

    def of(self, recent: Recent, layer: int, at: Reals) -> Reals:
        """Of the experts of a layer, [E], with the context's components ``at``."""
        own = np.tensordot(self.weights, recent.features(layer), 1) + self.offsets[layer]
        worth = 1 / (1 + np.exp(-own))
        if self.ridge is not None:
            worth += self.turns[layer] @ (at - self.mean)
        return np.asarray(np.clip(worth, LEAST, 1 - LEAST))


def learn(
    history: History, n_layers: int, n_experts: int, *, discount: float, scores: bool, components: int
) -> Estimate:
    """Fit on the train requests, read in order as one sequence of tokens."""
    most = max(1, min(MOST_ROWS, MOST_ENTRIES // (n_layers * n_experts)))
    ids, probs = _rows(history.requests(), scores, most)
    n = len(ids)
    chosen = choices(ids, n_experts)
    popular = np.log((chosen.sum(0) + 1) / (n + 2))
    sooner = (discount ** _distances(chosen)).astype(np.float32)
    first = min(WARM_ROWS, n // 2)
    taken = set(range(first, n, max(1, chosen.size // MOST_EXAMPLES)))
    features, labels = [], []
    for row, recent in enumerate(_replayed(ids, probs, n_experts)):
        if row in taken:
            own = np.concatenate([recent.features(slice(None)), popular[None]])
            features.append(own.reshape(len(own), -1))
            labels.append(sooner[row].ravel())
    weights, intercept, loss = regress(np.concatenate(features, 1).T, np.concatenate(labels))
    offsets = intercept + weights[-1] * popular
    alone = Estimate(weights[:-1], offsets, np.empty(0), np.empty(0), np.empty(0), loss, None)
    if not components or n < 2 * HELD_OUT:
        return alone
    basis = _components(chosen, components)
    left, at = np.empty_like(sooner), np.empty((n, n_layers, len(basis)), np.float32)
    context = Context(basis)
    for row, recent in enumerate(_replayed(ids, probs, n_experts)):
        own = np.tensordot(alone.weights, recent.features(slice(None)), 1) + offsets
        left[row] = sooner[row] - 1 / (1 + np.exp(-own))
        for layer in range(n_layers):
            at[row, layer] = context.see(layer, chosen[row, layer])
    ridge, mean, turns = _turns(at[first:], left[first:])
    return Estimate(alone.weights, offsets, basis, mean, turns, loss, ridge)


def regress(x: Reals, y: NDArray[np.floating]) -> tuple[Reals, float, float]:
    """Weights [features], intercept and mean loss of a ridge logistic regression of ``y`` in 0 to 1 on ``x`` [n, f].

    Newton's method; deterministic.
    """
    mean, spread = x.mean(0), x.std(0)
    spread[spread == 0] = 1
    z = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], 1)
    penalty = RIDGE * np.eye(z.shape[1])
    penalty[-1, -1] = 1e-6
    w = np.zeros(z.shape[1])
    for _ in range(NEWTON_STEPS):
        p = _logistic(z @ w)
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + penalty, z.T @ (y - p) - penalty @ w)
        w += step
        if np.abs(step).max() < 1e-9:
            break
    p = np.clip(_logistic(z @ w), 1e-12, 1 - 1e-12)
    weights = w[:-1] / spread
    return weights, float(w[-1] - weights @ mean), float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def _logistic(at: Reals) -> Reals:
    return np.asarray(1 / (1 + np.exp(-np.clip(at, -30, 30))))


def _rows(
    requests: Iterable[PastRequest], scores: bool, most: int
) -> tuple[NDArray[np.integer], NDArray[np.floating] | None]:
    ids, probs, left = [], [], most
    for request in requests:
        ids.append(request.expert_ids()[:left])
        if scores:
            probs.append(request.router_probs()[:left])
        left -= len(ids[-1])
        if left <= 0:
            break
    return np.concatenate(ids), np.concatenate(probs) if scores else None


def _replayed(ids: NDArray[np.integer], probs: NDArray[np.floating] | None, n_experts: int) -> Iterable[Recent]:
    """What was seen after each token."""
    recent = Recent(ids.shape[1], n_experts, scores=probs is not None)
    for row in range(len(ids)):
        recent.see(slice(None), ids[row : row + 1], None if probs is None else probs[row : row + 1])
        yield recent


def _distances(chosen: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Of each token the tokens from the next one on until each expert is chosen, [n, L, E]."""
    until = np.empty(chosen.shape, np.int16)
    at = np.full(chosen.shape[1:], BEYOND, np.int16)
    for row in range(len(chosen) - 1, -1, -1):
        until[row] = at
        at = np.where(chosen[row], 0, np.minimum(at + 1, BEYOND)).astype(np.int16)
    return until


def _components(chosen: NDArray[np.bool_], wanted: int) -> Reals:
    """The first principal components of tokens' choices, [components, L, E]."""
    some = chosen[:: -(-len(chosen) // MOST_FOR_BASIS)].reshape(-1, chosen[0].size).astype(np.float64)
    some -= some.mean(0)
    squares, left = np.linalg.eigh(some @ some.T)
    keep = squares[::-1][:wanted] > 1e-9 * squares[-1]
    vectors = left[:, ::-1][:, :wanted][:, keep].T @ some
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)])[:, None]  # else either may come
    return vectors.reshape(-1, *chosen.shape[1:])


def _turns(at: NDArray[np.float32], left: NDArray[np.float32]) -> tuple[float | None, Reals, Reals]:
    """The ridge, the components' means, and per layer what they explain of ``left`` [n, L, E]."""
    n, n_layers, _ = at.shape
    cut = n - n // HELD_OUT
    mean = at.mean((0, 1), dtype=np.float64)
    at = at - mean.astype(np.float32)
    errors = dict.fromkeys(RIDGES, 0.0)
    before = float((left[cut:].astype(np.float64) ** 2).sum())
    for layer in range(n_layers):
        for ridge in RIDGES:
            turn = _solve(at[:cut, layer], left[:cut, layer], ridge)
            errors[ridge] += float(((left[cut:, layer] - at[cut:, layer] @ turn.T) ** 2).sum())
    best = min(RIDGES, key=lambda ridge: errors[ridge])
    if errors[best] >= before:
        return None, mean, np.empty(0)
    return best, mean, np.stack([_solve(at[:, layer], left[:, layer], best) for layer in range(n_layers)])


def _solve(x: NDArray[np.float32], y: NDArray[np.float32], ridge: float) -> Reals:
    square = x.T.astype(np.float64) @ x
    square += ridge * np.trace(square) / len(square) * np.eye(len(square))
    return np.asarray(np.linalg.solve(square, x.T.astype(np.float64) @ y).T)
