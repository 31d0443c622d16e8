"""The law of modelled routing: a Gaussian state per token, of which each layer's K largest entries are its experts.

In layer l the state of expert e at token t is ``mean[l, e] + noise``, the noise of variance 1. The means make experts
popular or rare. The noise is a sum of parts, each of a time scale: one that stays for a whole request, some that fade
over half a token to 512 tokens, and one that is new at every token; their variances decide how much of a token's
experts the tokens before it had. Persistent parts pass through a few factors, which layers share in part: what changes,
changes in many layers at once, as in recordings. Of what stays for a request, some is its topic's, some is left of the
requests before it and fades over 1 to 64 of them, and the rest is its own.

An expert is taken to be chosen where its state is above a threshold at which K are chosen on average. Then popularity
and overlap have closed forms (Owen's T for the bivariate normal), which are inverted here; what the
exact K differs by is mended in traces.synthesize.fit.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq, nnls
from scipy.special import ndtr, ndtri, owens_t

from traces.format.layout import Array

SCALES = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)
"""Tokens in which a part fades to 1 / e."""
REQUEST_SCALES = (1.0, 4.0, 16.0, 64.0)
"""Requests in which a part fades to 1 / e."""
FACTORS = 16
_CORRELATIONS = np.concatenate([np.linspace(0, 0.95, 96), 1 - np.geomspace(0.045, 1e-4, 32)])
RAREST = 2e-5
_SURELY = 1e3  # by which a sum weighs more than the correlations


@dataclass(frozen=True)
class Law:
    """``means`` [L, E], ascending in a layer. ``parts`` [L, S + 1]: variances by scale, then of the whole request; what
    they lack to 1 is new at every token. ``topic`` [L]: how much of the request's part requests of one topic share.
    ``shared``: how much of the factors all layers share. ``drift``: variances by REQUEST_SCALES, of the rest of the
    request's part; what they lack to 1 is new at every request.
    """

    means: Array
    parts: Array
    topic: Array
    shared: float
    drift: Array = field(default_factory=lambda: np.zeros(len(REQUEST_SCALES)))


def means_of(chances: Array) -> Array:
    """The means at which experts are chosen with these ``chances`` [E], for a threshold of 0."""
    return np.asarray(ndtri(np.clip(chances, RAREST, 1 - RAREST)))


def chances_of(means: Array, top_k: int) -> Array:
    """How often each expert is chosen, K in all. The inverse of means_of, but for a shift of all means."""
    return np.asarray(ndtr(means - _threshold(means, top_k)))


def overlaps_of(means: Array, correlations: Array, top_k: int) -> Array:
    """The share of a token's experts that another one has, by the correlation of their noises [n]."""
    above = _threshold(means, top_k) - means
    slope = np.sqrt((1 - correlations) / (1 + correlations))
    both: Array = ndtr(-above) - 2 * owens_t(above, slope[:, None])
    return np.asarray(both.sum(axis=1) / top_k)


def correlations_of(means: Array, overlaps: Array, top_k: int) -> Array:
    """The correlations at which two tokens share so much; 0 where popularity alone makes more."""
    found: Array = np.interp(overlaps, _overlaps(np.asarray(means, float).tobytes(), top_k), _CORRELATIONS)
    return found


@lru_cache(maxsize=1024)
def _overlaps(means: bytes, top_k: int) -> Array:
    """Those of all _CORRELATIONS: a layer is asked several times before its means change."""
    return overlaps_of(np.frombuffer(means), _CORRELATIONS, top_k)


def parts_of(lags: Array, correlations: Array, most: float = 1.0) -> Array:
    """The variances by scale, and of the whole request [S + 1], that come nearest to ``correlations`` at ``lags``.

    Their sum is at most ``most``. Scales of more than twice the farthest lag cannot be told from what stays, and are 0.
    """
    lags = np.asarray(lags, float)[:, None]
    scales = np.array([scale for scale in SCALES if scale <= 2 * lags.max(initial=1)])
    # The last column is what is new at every token: it makes the sum, and no correlation.
    curves = np.concatenate([np.exp(-lags / scales), np.ones_like(lags), np.zeros_like(lags)], axis=1)
    whole = np.full((1, curves.shape[1]), _SURELY)
    parts, _ = nnls(np.concatenate([curves, whole]), np.append(np.asarray(correlations, float), _SURELY * most))
    found = np.zeros(len(SCALES) + 1)
    found[: len(scales)], found[-1] = parts[: len(scales)], parts[-2]
    return found


def resampled(rows: Array, size: int) -> Array:
    """``rows`` [..., n] read at ``size`` evenly spaced places."""
    places = np.linspace(0, 1, rows.shape[-1]) if rows.shape[-1] > 1 else np.zeros(1)
    wanted = np.linspace(0, 1, size) if size > 1 else np.full(1, 0.5)
    return np.apply_along_axis(lambda row: np.interp(wanted, places, row), -1, rows)


def _threshold(means: Array, top_k: int) -> float:
    if top_k >= len(means):
        return -40.0
    return float(brentq(lambda at: ndtr(means - at).sum() - top_k, means.min() - 10, means.max() + 10))
