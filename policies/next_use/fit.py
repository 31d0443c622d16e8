"""The estimate: a logistic regression of how soon an expert is chosen again, on what was seen of its layer of late."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from policies.api import History, PastStep
from policies.next_use.recent import Reals, Recent

BEYOND = 400
"""Tokens to the next choice of what is not chosen again."""
MOST_ROWS = 4096
"""Tokens of the train requests that are learned from, the first ones."""
MOST_EXAMPLES = 200_000
"""Of these, (token, layer, expert) that the regression sees, evenly spaced in time."""
WARM_ROWS = 16
"""Tokens at the beginning that are no examples: averages are empty."""
RIDGE = 1.0
"""Of the coefficients, features in units of their standard deviation."""
STEPS = 25


@dataclass(frozen=True, slots=True)
class Estimate:
    """``1 / (1 + exp(-(weights . features + offsets)))``, about the expected discount ^ (tokens to the next choice)."""

    weights: Reals
    """[features]"""
    offsets: Reals
    """[L, E]: the intercept, and how popular the expert is."""
    loss: float
    """Mean cross-entropy over the examples, nats."""

    def of(self, recent: Recent, layer: int) -> Reals:
        """Of the experts of a layer, [E]."""
        at = np.tensordot(self.weights, recent.features(layer), 1) + self.offsets[layer]
        return np.asarray(1 / (1 + np.exp(-at)))


def learn(history: History, n_layers: int, n_experts: int, *, discount: float, scores: bool) -> Estimate:
    """Fit on the train requests, read in order as one sequence of tokens."""
    ids, probs = _rows(history.steps(), scores)
    n, rows = len(ids), np.arange(len(ids))
    chosen = np.zeros((n, n_layers, n_experts + 1), np.bool_)
    np.put_along_axis(chosen, np.minimum(ids, n_experts).astype(np.intp), True, axis=2)
    chosen = chosen[..., :-1]
    popular = np.log((chosen.sum(0) + 1) / (n + 2))
    every = max(1, n * n_layers * n_experts // MOST_EXAMPLES)
    taken = rows[min(WARM_ROWS, n // 2) :: every]
    recent, x, y = Recent(n_layers, n_experts, scores=scores), [], []
    wanted = dict.fromkeys(taken.tolist())
    until = _distances(chosen)
    for row in range(n):
        recent.see(slice(None), ids[row : row + 1], None if probs is None else probs[row : row + 1])
        if row in wanted:
            x.append(np.concatenate([recent.features(slice(None)), popular[None]]).reshape(-1, popular.size))
            y.append(discount ** until[row].ravel())
    weights, intercept, loss = regress(np.concatenate(x, 1).T, np.concatenate(y))
    return Estimate(weights[:-1], intercept + weights[-1] * popular, loss)


def regress(x: Reals, y: Reals) -> tuple[Reals, float, float]:
    """Weights [features], intercept and mean loss of a ridge logistic regression of ``y`` in 0 to 1 on ``x`` [n, f].

    Newton's method; deterministic.
    """
    mean, spread = x.mean(0), x.std(0)
    spread[spread == 0] = 1
    z = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], 1)
    penalty = RIDGE * np.eye(z.shape[1])
    penalty[-1, -1] = 1e-6
    w = np.zeros(z.shape[1])
    for _ in range(STEPS):
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


def _rows(steps: Iterable[PastStep], scores: bool) -> tuple[np.ndarray, np.ndarray | None]:
    ids, probs, left = [], [], MOST_ROWS
    for step in steps:
        ids.append(step.expert_ids()[:left])
        if scores:
            probs.append(step.router_probs()[:left])
        left -= len(ids[-1])
        if left <= 0:
            break
    return np.concatenate(ids), np.concatenate(probs) if scores else None


def _distances(chosen: np.ndarray) -> np.ndarray:
    """Of each token the tokens from the next one on until each expert is chosen, [n, L, E]."""
    until = np.empty(chosen.shape, np.int16)
    at = np.full(chosen.shape[1:], BEYOND, np.int16)
    for row in range(len(chosen) - 1, -1, -1):
        until[row] = at
        at = np.where(chosen[row], 0, np.minimum(at + 1, BEYOND)).astype(np.int16)
    return until
