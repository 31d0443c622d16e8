"""From figures to the law that has them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from traces.format.layout import Array
from traces.synthesize.between import as_uneven, by_chance, drift_of
from traces.synthesize.changed import between_in, means_by_layer, shares_of
from traces.synthesize.draw import Source, largest
from traces.synthesize.figures import Figures
from traces.synthesize.law import Law, correlations_of, parts_of
from traces.synthesize.measure import PIECE, Sums, held_by

ROUNDS = 4
TRIED_TOKENS = 6144
TRIED_ALONE = 4096
TRIED_LAYERS = 8
SHARED, MOST_SHARED = 0.8, 0.95
"""How much of the factors layers share: at first, and at most."""


@cache
def law_of(figures: Figures, seed: int) -> Law:
    """The law of ``figures``, for requests that are drawn from ``seed``.

    What the closed forms miss, since exactly K are chosen and factors are few, is measured on drawn requests and
    mended, on those of the same seed, whose factors and topics they are: on average over the layers, the overlap at
    each lag is that of the figures, and so is ``together`` as far as the law can reach it. So is how uneven popularity
    is: a few factors make it more uneven than independent noise does.
    """
    K, means = figures.top_k, means_by_layer(figures)
    evenly, popular = means, by_chance(means, K)
    aimed = popular
    wanted, kin = shares_of(figures.overlap), shares_of([figures.kinship])[0]
    aim, shared, some = wanted, SHARED, _some_layers(figures.layers)
    law, memory = _law(figures, means, aim, kin, shared), dict[Any, Any]()
    drift = drift_of(means, law.parts[:, -1] * (1 - law.topic), between_in(figures), K)
    for _ in range(ROUNDS):
        aimed = aimed + np.interp(np.arange(figures.layers), some, popular[some] - _alone(law, some, K, seed))
        means = as_uneven(evenly, aimed, K)
        # What factors add to the overlap of strangers, they add to that of requests of one source.
        kindred = np.clip(kin + aimed - popular, 0, 1)
        found = _tried(_law(figures, means, aim, kindred, shared), figures, seed, memory)
        aim = np.clip(aim + _also_farther(_mean(wanted[some]) - _mean(found.overlap)), 0, 1)
        if figures.together is not None and found.together > 0:
            shared *= float(np.sqrt(max(figures.together, 0) / found.together))
        shared = min(shared, MOST_SHARED)
        law = _law(figures, means, aim, kindred, shared)
    return replace(law, drift=drift)


def reached(figures: Figures, seed: int) -> tuple[float, float]:
    """What requests drawn from the law of ``figures`` have: the overlap with the token before, and ``together``."""
    found = _tried(law_of(figures, seed), figures, seed)
    return float(_mean(found.overlap)[0]), found.together


def _law(figures: Figures, means: Array, aim: Array, kin: Array, shared: float) -> Law:
    K, lags = figures.top_k, np.array(figures.lags)
    parts, topic = [], np.zeros(len(means))
    for layer, row in enumerate(means):
        there = ~np.isnan(aim[layer])
        of_topic = 0.0 if np.isnan(kin[layer]) else float(correlations_of(row, kin[[layer]], K)[0])
        beside = np.maximum(correlations_of(row, aim[layer][there], K) - of_topic, 0)
        found = parts_of(lags[there], beside, 1 - of_topic)
        found[-1] += of_topic
        topic[layer] = of_topic / found[-1] if of_topic else 0
        parts.append(found)
    return Law(means, np.stack(parts), topic, shared)


def _tried(law: Law, figures: Figures, seed: int, memory: dict[Any, Any] | None = None) -> Sums:
    """What requests drawn from the law are like; ``memory``: of the source."""
    some, experts = _some_layers(figures.layers), figures.experts
    sums, source = Sums(len(some), experts, lags=figures.lags), Source(law, seed, memory)
    rows = request = 0
    lengths = lengths_of(figures, 1 + 2 * len(figures.prompt_tokens))
    while rows < TRIED_TOKENS:
        length = min(PIECE, max(2, lengths[request % len(lengths)]))
        states = source.states(request, length, request % figures.topics, some)
        ids = np.stack([largest(state, figures.top_k) for state in states], axis=1)
        sums.add_piece(held_by(ids, experts))
        rows, request = rows + length, request + 1
    return sums


def _also_farther(missed: Array) -> Array:
    """By lag; at those where it is not known, as at the nearest one where it is."""
    known = np.flatnonzero(~np.isnan(missed))
    return np.interp(np.arange(len(missed)), known, missed[known]) if len(known) else np.zeros(len(missed))


def _alone(law: Law, layers: Array, top_k: int, seed: int) -> Array:
    """What tokens of two requests share in these layers, as they are drawn, over many requests."""
    source, found = Source(law, seed), []
    for layer in layers:
        ids = largest(source.alone(layer, TRIED_ALONE), top_k)
        chances = np.bincount(ids.ravel(), minlength=law.means.shape[1]) / TRIED_ALONE
        found.append((TRIED_ALONE * (chances**2).sum() / top_k - 1) / (TRIED_ALONE - 1))
    return np.array(found)


def lengths_of(figures: Figures, count: int) -> list[int]:
    """Rows of typical requests."""
    at = (np.arange(count) + 0.5) / count
    prompt, output = (resampled_at(row, at) for row in (figures.prompt_tokens, figures.output_tokens))
    random = np.random.default_rng(0)
    return [int(p * figures.prompt_rows + o - 1) for p, o in zip(prompt, random.permutation(output), strict=True)]


def resampled_at(quantiles: Sequence[int], at: Array) -> Array:
    """Lengths at the shares ``at``, whole tokens; between two quantiles, as likely in their logarithm."""
    return np.rint(np.exp(np.interp(at, np.linspace(0, 1, len(quantiles)), np.log(quantiles)))).astype(np.int64)


def _mean(shares: Array) -> Array:
    """Over the layers; NaN where none is known."""
    known = ~np.isnan(shares)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(known, shares, 0).sum(axis=0) / known.sum(axis=0)
    return found


def _some_layers(layers: int) -> Array:
    return np.unique(np.linspace(0, layers - 1, TRIED_LAYERS).round().astype(int))
