"""Signals that are made up: consistent with the routing beside them, they know no more of the future than is stated."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq

from traces.format.layout import Array
from traces.kit.errors import UserError, one_of
from traces.synthesize.draw import largest

WIDTH = 64
"""Of an embedding."""
REST, TOP_WEIGHT = 0.3, 0.4
"""The scores of all experts that are not chosen, of 1; and the share of the first in the weights of the chosen."""
TOPIC, REQUEST = 0.3, 0.2
"""Shares of an embedding's variance that a topic's requests have in common, and that a request's tokens have beside."""


def foreseen(ids: Array, recall: float, draws: Array, keys: Array) -> Array:
    """``ids`` [rows, K] as a predictor of this ``recall`` would name them.

    Each is right with probability ``recall``, by ``draws`` [rows, K + 1] of 0 to 1; in the place of a wrong one stands
    the next of the others by ``keys`` [rows, E]. Absent ids, E and above, stay absent. Where fewer than K experts are
    left to be wrong with (2 K > E), the number of wrong ones in a row is recall's, rounded by the last of the draws.
    """
    return _named(ids, recall, draws, _others(ids, keys), keys.shape[1])


def _others(ids: Array, keys: Array) -> Array:
    """The first by ``keys`` that are not among ``ids``: as many as may stand in the place of wrong ones."""
    (rows, top_k), experts = ids.shape, keys.shape[1]
    held = np.zeros((rows, experts + 1), bool)
    np.put_along_axis(held, np.minimum(ids, experts).astype(np.intp), values=True, axis=1)
    return largest(np.where(held[:, :experts], -np.inf, keys), max(1, min(top_k, experts - top_k)))


def _named(ids: Array, recall: float, draws: Array, others: Array, experts: int) -> Array:
    top_k = ids.shape[1]
    real, (rounding, draws) = ids < experts, (draws[:, -1], draws[:, :-1])
    if 2 * top_k > experts:
        wrong = np.floor((1 - recall) * real.sum(axis=1) + rounding).clip(max=experts - top_k)
        right = np.argsort(np.argsort(np.where(real, draws, 2), axis=1), axis=1) >= wrong[:, None]
    else:
        right = draws < recall
    turn = np.maximum(np.cumsum(~right & real, axis=1) - 1, 0)
    return np.where(right | ~real, ids, np.take_along_axis(others, turn, axis=1).astype(ids.dtype))


def least_recall(experts: int, top_k: int) -> float:
    """Of K names among E experts: some are right where there are not K others."""
    return max(0.0, (2 * top_k - experts) / top_k)


def check_recall(recall: Sequence[float], layers: int, experts: int, top_k: int) -> None:
    """UserError for a recall that no predictor of K ids can have, or for layers that are not there."""
    least = least_recall(experts, top_k)
    for share in recall:
        if not least <= share <= 1:
            raise UserError(
                f"recall={one_of(recall)}: {share} cannot be of top-{top_k} of {experts}; allowed: {least:g} to 1"
            )
    if len(recall) >= layers:
        raise UserError(
            f"recall={one_of(recall)}: {len(recall)} layers ahead; allowed: up to {layers - 1} for {layers} layers"
        )


def gate_ahead(ids: Array, recall: Sequence[float], chances: Array, absent: int, random: np.random.Generator) -> Array:
    """What predictors of ``recall`` by distance say of ``ids`` [rows, L, K]: [rows, L, A, K]; ``chances`` [L, E].

    Of one layer, those of all distances are wrong alike, as recorded ones are: two that agree are no surer than one.
    """
    rows, layers, top_k = ids.shape
    out = np.full((rows, layers, len(recall), top_k), absent, ids.dtype)
    for later in range(1, layers):
        draws = random.random((rows, top_k + 1))
        keys = np.log(np.maximum(chances[later], 1e-9)) + random.gumbel(size=(rows, chances.shape[1]))
        own = ids[:, later]
        others = _others(own, keys)
        for distance, share in enumerate(recall[:later], 1):
            out[:, later - distance, distance - 1] = _named(own, share, draws, others, keys.shape[1])
    return out


def embedding(topic: Array, request: Array, rows: int, random: np.random.Generator) -> Array:
    """Embeddings [rows, WIDTH] of a request's tokens: two of the request are alike, and two of its topic a little."""
    lasting = np.sqrt(TOPIC) * topic + np.sqrt(REQUEST) * request
    found: Array = lasting + np.sqrt(1 - TOPIC - REQUEST) * random.standard_normal((rows, WIDTH))
    return found


def steepness(states: Array, top_weight: float) -> float:
    """By which factor states [rows, K] of the chosen, the largest first, give the first this share under a softmax."""
    gaps = states - states[:, :1]

    def first(factor: float) -> float:
        return float((1 / np.exp(factor * gaps).sum(axis=1)).mean())

    least, most = first(0.0), first(100.0)
    if top_weight <= least or states.shape[1] == 1:
        return 0.0
    return 100.0 if top_weight >= most else float(brentq(lambda factor: first(factor) - top_weight, 0.0, 100.0))


def softmax(states: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(states - states.max(axis=-1, keepdims=True))
    found: Array = powers / powers.sum(axis=-1, keepdims=True)
    return found


def scores(ids: Array, weights: Array | None, chances: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Scores over all experts [rows, L, E] whose largest are ``ids`` [rows, L, K], and the weights of these.

    Given ``weights`` are kept, else they fall from one to the next so that the first has TOP_WEIGHT of K, about.
    Experts that were not chosen share REST of the scores by ``chances`` [L, E], times a random factor, and each has
    less than the last one chosen.
    """
    experts, top_k = chances.shape[1], ids.shape[2]
    if weights is None:
        weights = (ids < experts) * _ratio(top_k) ** np.arange(top_k)
        weights = (weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-9)).astype(np.float32)
    found = np.empty((len(ids), *chances.shape), np.float16)
    for layer, own in enumerate(chances):
        found[:, layer] = _scores(ids[:, layer], weights[:, layer].astype(np.float64), own, random)
    return found, weights


def _scores(ids: Array, weights: Array, chances: Array, random: np.random.Generator) -> Array:
    """Of one layer [rows, E]."""
    rows, experts = len(ids), len(chances)
    real, places = ids < experts, np.minimum(ids, experts).astype(np.intp)
    chosen = np.where(real, (1 - REST) * weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), 0)
    every = np.zeros((rows, experts + 1))
    every[:, :experts] = chances * random.gamma(2.0, size=(rows, experts))
    np.put_along_axis(every, places, 0.0, axis=1)
    every *= REST / np.maximum(every.sum(axis=1, keepdims=True), 1e-12)
    last = np.where(real, chosen, np.inf).min(axis=1, keepdims=True)
    every = np.minimum(every, 0.99 * np.where(np.isfinite(last), last, 1))
    np.put_along_axis(every, places, chosen, axis=1)
    found: Array = every[:, :experts] / np.maximum(every[:, :experts].sum(axis=1, keepdims=True), 1e-12)
    return found


def _ratio(top_k: int) -> float:
    """Of one weight to the one before it, with TOP_WEIGHT of top-4 and alike of others."""
    if top_k == 1:
        return 1.0
    first = max(TOP_WEIGHT, 1.2 / top_k)
    return float(brentq(lambda ratio: 1 / (ratio ** np.arange(top_k)).sum() - first, 1e-6, 1.0))
