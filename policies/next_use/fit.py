"""What is learned: how soon an expert is chosen again, from what was seen of it and of all layers at the last token.

Two steps, each linear, small and deterministic: a logistic regression on an expert's own features (recent.py), the same
for all experts, and for each layer a ridge regression of what that leaves on the last token's choices in all layers,
in a few principal components. How strong the ridge is, and whether there is one, the last fifth of the tokens says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.api import History, Learned
from policies.next_use.past import distances, replayed, tokens_of
from policies.next_use.recent import Reals, Recent, by_choice, choices, contexts

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
STILL = 1e-3
"""A feature that spreads less than this part of its mean says nothing."""
LEAST_LOGIT = -50.0
LEAST = 1e-4
"""Estimates lie between it and one minus it."""
ARRAYS = ("weights", "offsets", "popular", "basis", "mean", "turns", "later")
SUMS = ("squares", "products", "penalty")
"""Of an estimate, and of its sums."""


@dataclass(frozen=True, slots=True)
class Discount:
    """What a use is worth by the tokens before it: a part ``far`` of it fades a third as fast as the others."""

    near: float
    far: float

    def of(self, tokens: NDArray[np.integer]) -> Reals:
        """1 for the next token's, falling from there on."""
        return np.asarray((1 - self.far) * self.near**tokens + self.far * self.near ** (tokens / 3))


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a ridge regression per layer, over tokens; more tokens may be added."""

    squares: Reals
    """Of the centred components, [L, C, C]."""
    products: Reals
    """Of these with what is left to explain, [L, C, E]."""
    penalty: Reals
    """[L], what it was when the train requests had been read: the more tokens, the less it says."""

    def add(self, at: NDArray[np.floating], left: NDArray[np.floating]) -> None:
        """Tokens, with their centred components [n, L, C] and what is left of their labels [n, L, E]."""
        x = np.ascontiguousarray(at.transpose(1, 2, 0))
        self.squares[:] += x @ x.transpose(0, 2, 1)
        self.products[:] += x @ left.transpose(1, 0, 2)

    def turns(self) -> Reals:
        """The solution, [L, E, C]."""
        regular = self.squares + self.penalty[:, None, None] * np.eye(self.squares.shape[1])
        return np.asarray(np.linalg.solve(regular, self.products).transpose(0, 2, 1))


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected discount ^ (tokens to the next choice) of each expert."""

    weights: Reals
    """Of an expert's own features, [features]."""
    offsets: Reals
    """[L, E]: the intercept, and how popular the expert is."""
    popular: Reals
    """[L, E]: the share of the train requests' tokens that chose it."""
    basis: Reals
    """Of a token's choices, [components, L, E]; none: without context. C below is twice as many: of two tokens."""
    mean: Reals
    """Of the components before they are centred, [C]."""
    turns: Reals
    """What the components add, [L, E, C]."""
    loss: float
    """Mean cross-entropy of the first step, nats."""
    ridge: float | None
    """Of the second step; None: it did not help on tokens held out."""
    sums: Sums | None = None
    """What the second step was solved from; None where there is none."""
    later: Reals | None = None
    """By how far ahead: what components add for a layer so much later in this token, [A, L, E, C]."""

    def kept(self) -> Learned:
        """All of it, as arrays and facts."""
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        if self.sums is not None:
            arrays |= {name: getattr(self.sums, name) for name in SUMS}
        return Learned(arrays, {"loss": self.loss, "ridge": self.ridge})

    @classmethod
    def recalled(cls, learned: Learned) -> Estimate:
        """What was kept."""
        arrays = {name: np.asarray(array, np.float64) for name, array in learned.arrays.items()}
        sums = Sums(*(arrays.pop(name) for name in SUMS)) if SUMS[0] in arrays else None
        return cls(**arrays, loss=learned.facts["loss"], ridge=learned.facts["ridge"], sums=sums)

    def recent(self, *, scores: bool, shares: bool = True) -> Recent:
        """Of its shape, with nothing seen."""
        return Recent(*self.offsets.shape, scores=scores, popular=self.popular, shares=shares)

    def own(self, recent: Recent, layer: int | None = None) -> Reals:
        """From an expert's own features alone: of a layer, [E], or of all, [L, E]."""
        if layer is None:
            at = self.weights @ recent.table + self.offsets
        else:
            at = self.weights @ recent.table[layer] + self.offsets[layer]
        return np.asarray(1 / (1 + np.exp(-np.maximum(at, LEAST_LOGIT))))

    def named(self, own: Reals, layer: int, distance: int, at: Reals, n: int) -> NDArray[np.intp]:
        """The ``n`` likeliest choices of the layer that is so much later than ``layer``, whose gate has run, [n].

        ``own``: what that layer's experts are worth by their own features, [E]; ``at``: the components.
        """
        assert self.later is not None
        likely = own + self.later[distance - 1, layer] @ (at - self.mean)
        return np.argsort(-likely, kind="stable")[:n]

    def of(self, recent: Recent, layer: int, at: Reals) -> Reals:
        """Of the experts of a layer, [E], with the context's components ``at``."""
        worth = self.own(recent, layer)
        if self.ridge is not None:
            worth += self.turns[layer] @ (at - self.mean)
        return np.minimum(np.maximum(worth, LEAST), 1 - LEAST)


def learn(
    history: History,
    n_layers: int,
    n_experts: int,
    *,
    discount: Discount,
    scores: bool,
    components: int,
    shares: bool = True,
    ahead: int = 0,
) -> Estimate:
    """Fit on the train requests, read in order as one sequence of tokens; ``ahead``: layers that are looked ahead."""
    most = max(1, min(MOST_ROWS, MOST_ENTRIES // (n_layers * n_experts)))
    past = tokens_of(history.requests(), scores, most)
    ids, n = past.ids, len(past.ids)
    chosen = choices(ids, n_experts)
    popular = (chosen.sum(0) + 1) / (n + 2)
    sooner = discount.of(distances(chosen)).astype(np.float32)
    first = min(WARM_ROWS, n // 2)
    taken = set(range(first, n, max(1, chosen.size // MOST_EXAMPLES)))
    features, labels = [], []
    for row, recent in enumerate(replayed(past, popular, shares=shares)):
        if row in taken:
            own = np.concatenate([recent.table.transpose(1, 0, 2), np.log(popular)[None]])
            features.append(own.reshape(len(own), -1))
            labels.append(sooner[row].ravel())
    weights, intercept, loss = regress(np.concatenate(features, 1).T, np.concatenate(labels))
    offsets = intercept + weights[-1] * np.log(popular)
    alone = Estimate(weights[:-1], offsets, popular, np.empty(0), np.empty(0), np.empty(0), loss, None)
    if not components or n < 2 * HELD_OUT:
        return alone
    basis = _components(chosen, components)
    if not len(basis):  # each token chose the same
        return alone
    left, at = np.empty_like(sooner), contexts(by_choice(basis), ids, None)
    for row, recent in enumerate(replayed(past, popular, shares=shares)):
        left[row] = sooner[row] - alone.own(recent)
    ridge, mean, sums = _second(at[first:], left[first:])
    turns = np.empty(0) if sums is None else sums.turns()
    later = None
    if sums is not None and ahead:
        left[1:] = chosen[1:] - (sooner - left)[:-1]  # of what was known of a layer before its gate
        left[0] = 0
        later = _later(sums, at[first:] - mean.astype(np.float32), left[first:], ahead)
    return Estimate(alone.weights, offsets, popular, basis, mean, turns, loss, ridge, sums, later)


def _later(sums: Sums, at: NDArray[np.float32], left: NDArray[np.float32], ahead: int) -> Reals:
    """What the components after a gate say of the choices up to ``ahead`` layers later, [A, L, E, C]."""
    found = []
    for distance in range(1, ahead + 1):
        products = np.zeros_like(sums.products)
        products[:-distance] = at[:, :-distance].transpose(1, 2, 0) @ left[:, distance:].transpose(1, 0, 2)
        found.append(Sums(sums.squares, products, sums.penalty).turns())
    return np.stack(found)


def regress(x: Reals, y: NDArray[np.floating]) -> tuple[Reals, float, float]:
    """Weights [features], intercept and mean loss of a ridge logistic regression of ``y`` in 0 to 1 on ``x`` [n, f].

    Newton's method; deterministic.
    """
    mean, spread = x.mean(0), x.std(0)
    spread[spread <= STILL * np.abs(mean)] = np.inf  # of no weight: a constant, but for rounding and a start
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


def _second(at: NDArray[np.float32], left: NDArray[np.float32]) -> tuple[float | None, Reals, Sums | None]:
    """The ridge, the components' means [C], and the sums over ``at`` [n, L, C]."""
    n, n_layers, width = at.shape
    cut = n - n // HELD_OUT
    mean = at.mean((0, 1), dtype=np.float64)
    at = at - mean.astype(np.float32)
    shapes = (n_layers, width, width), (n_layers, width, left.shape[2])
    sums = Sums(np.zeros(shapes[0]), np.zeros(shapes[1]), np.zeros(n_layers))
    sums.add(at[:cut], left[:cut])
    errors = {}
    for ridge in RIDGES:
        turns = _regular(sums, ridge).turns()
        missed = left[cut:].transpose(1, 0, 2) - at[cut:].transpose(1, 0, 2) @ turns.transpose(0, 2, 1)
        errors[ridge] = float((missed**2).sum())
    best = min(RIDGES, key=lambda ridge: errors[ridge])
    if errors[best] >= float((left[cut:].astype(np.float64) ** 2).sum()):
        return None, mean, None
    sums.add(at[cut:], left[cut:])
    return best, mean, _regular(sums, best)


def _regular(sums: Sums, ridge: float) -> Sums:
    """The same sums, with the penalty that this ridge is."""
    return replace(sums, penalty=ridge * np.trace(sums.squares, axis1=1, axis2=2) / sums.squares.shape[1])
