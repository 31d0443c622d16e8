"""What requests have in common with those before them, and what their popularity would be in the long run.

A recording of few requests finds its own favourites popular, and neighbours are alike where what people ask drifts. So
the overlap of two requests, by how far apart they are, tells popularity that lasts from favourites of a while.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, nnls

from traces.format.layout import Array
from traces.synthesize.law import REQUEST_SCALES, correlations_of, overlaps_of

_LIKENESSES = np.linspace(0, 1, 65)
_SLOWEST = 4
"""Of a recording, parts that fade over more than this share of its requests are taken for popularity."""


@dataclass(frozen=True)
class Between:
    """``shares`` [n]: of a token's experts, those that a token of another request has, averaged over the layers; NaN
    where unknown. Place p is of requests 2**(p - 1) + 1 to 2**p apart, the first of neighbours. ``within`` [L]: the
    same of two far tokens of one request. ``requests``: how many were compared.
    """

    shares: Array
    within: Array
    requests: int

    @property
    def known(self) -> Array:
        """The places."""
        return np.flatnonzero(~np.isnan(self.shares)) if not np.isnan(self.within).any() else np.array([], int)


def curves(places: Array, requests: int) -> Array:
    """What is left of parts that fade by REQUEST_SCALES, on average over the distances of ``places`` [n, scales]."""
    apart = [np.arange(2 ** (place - 1) + 1 if place else 1, 2**place + 1)[:, None] for place in places.tolist()]
    scales = np.array([scale for scale in REQUEST_SCALES if scale * _SLOWEST <= requests])
    return np.stack([np.exp(-distances / scales).mean(axis=0) for distances in apart])


def lasting(means: Array, between: Between, top_k: int) -> Array:
    """``means`` [L, E] of the popularity in a recording, less uneven: as it would be over endlessly many requests.

    The variance that requests bring is taken off each layer in proportion to what its requests differ by, and in all so
    much that requests far apart share what they do.
    """
    if not len(between.known):
        return means
    shares = between.shares[between.known]
    faded = curves(between.known, between.requests)
    far = float(nnls(np.concatenate([np.ones((len(faded), 1)), faded], axis=1), shares)[0][0])
    found = by_chance(means, top_k)
    brought = float(np.clip((found.mean() - far) / max(between.within.mean() - far, 1e-9), 0, 0.95))
    return as_uneven(means, (found - brought * between.within) / (1 - brought), top_k)


def by_chance(means: Array, top_k: int) -> Array:
    """The share [L] of a token's experts that another one has, of the same popularity and nothing else in common."""
    return np.array([overlaps_of(row, np.zeros(1), top_k)[0] for row in means])


def as_uneven(means: Array, wanted: Array, top_k: int) -> Array:
    """``means`` [L, E] nearer to their mean, or farther from it, so that by chance tokens share what is ``wanted``."""
    return np.stack([_as_uneven(*row, top_k) for row in zip(means, wanted, strict=True)])


def _as_uneven(means: Array, wanted: float, top_k: int) -> Array:
    centre = means.mean()

    def missed(factor: float) -> float:
        return float(by_chance(centre + factor * (means - centre)[None], top_k)[0]) - wanted

    low, high = 0.0, 4.0
    factor = low if missed(low) >= 0 else high if missed(high) <= 0 else brentq(missed, low, high)
    found: Array = centre + factor * (means - centre)
    return found


def likeness_of(means: Array, correlations: Array, between: Between, top_k: int) -> Array:
    """Of what a request keeps to its end, the share that it has of the others' [n]: 0 where popularity makes enough."""
    made = between_of(means, correlations, _LIKENESSES, top_k)
    found: Array = np.interp(between.shares, made, _LIKENESSES)
    return found


def between_of(means: Array, correlations: Array, likenesses: Array, top_k: int) -> Array:
    """The shares [n] by ``likenesses`` [n] of what requests keep, whose variances are ``correlations`` [L]."""
    rows = [overlaps_of(*row, top_k) for row in zip(means, correlations[:, None] * likenesses, strict=True)]
    found: Array = np.mean(rows, axis=0)
    return found


def drift_of(means: Array, correlations: Array, between: Between, top_k: int) -> Array:
    """The variances by REQUEST_SCALES, of 1 that a request keeps to its end; what they lack is new at each request."""
    found = np.zeros(len(REQUEST_SCALES))
    if len(places := between.known) and correlations.any():
        wanted = likeness_of(means, correlations, between, top_k)[places]
        parts, _ = nnls(curves(places, between.requests), wanted)
        found[: len(parts)] = parts / max(1.0, parts.sum())
    return found


def far_correlations(means: Array, within: Array, top_k: int) -> Array:
    """Of two far tokens of one request [L]."""
    rows = zip(means, within[:, None], strict=True)
    return np.concatenate([correlations_of(*row, top_k) for row in rows])
