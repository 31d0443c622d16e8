"""Figures of another model's shape, or with one thing stated otherwise; the rest is kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from traces.format.layout import Array
from traces.kit.errors import UserError
from traces.synthesize.between import Between, between_of, far_correlations, lasting, likeness_of
from traces.synthesize.figures import Figures
from traces.synthesize.law import chances_of, correlations_of, means_of, overlaps_of, resampled


def shaped(figures: Figures, layers: int, experts: int, top_k: int) -> Figures:
    """Figures of another shape: layers and ranks are read at evenly spaced places, correlations are as they were.

    So are popularities, as means of the law (traces.synthesize.law): the chances follow from K and E.
    """
    if (figures.layers, figures.experts, figures.top_k) == (layers, experts, top_k):
        return figures
    before = means_by_layer(figures)
    shares, kin = shares_of(figures.overlap), shares_of([figures.kinship])[0]
    related = np.stack([correlations_of(row, each, figures.top_k) for row, each in zip(before, shares, strict=True)])
    kindred = np.concatenate([correlations_of(*it, figures.top_k) for it in zip(before, kin[:, None], strict=True)])
    means = resampled(resampled(before, experts).T, layers).T
    correlations, of_kin = resampled(related.T, layers).T, resampled(kindred, layers)
    chances = [chances_of(row, top_k) for row in means]
    within = np.minimum(correlations, 0.9999)
    overlaps = [overlaps_of(row, each, top_k) for row, each in zip(means, within, strict=True)]
    kinship = [overlaps_of(row, np.array([each]), top_k)[0] for row, each in zip(means, of_kin, strict=True)]
    made = replace(
        figures,
        layers=layers,
        experts=experts,
        top_k=top_k,
        popularity=tuple(tuple(map(float, np.sort(row))) for row in chances),
        overlap=tuple(_as_before(row, row) for row in np.array(overlaps)),
        kinship=_as_before(np.array(kinship), np.array(kinship)),
    )
    return _alike_as(figures, before, made, means)


def with_entropy(figures: Figures, share: float) -> Figures:
    """The popularity's entropy is this ``share`` of log2 E, on average over the layers; UserError where none has it."""
    means = means_by_layer(figures)
    centres = means.mean(axis=1, keepdims=True)
    if not np.ptp(means):
        means = means + resampled(np.array([-1.0, 1.0]), figures.experts)

    def rows(factor: float) -> list[Array]:
        return [chances_of(row, figures.top_k) for row in centres + factor * (means - centres)]

    def entropy(factor: float) -> float:
        shares = np.stack(rows(factor)) / figures.top_k
        bits = -(shares * np.log2(np.maximum(shares, 1e-300))).sum(axis=1).mean()
        return float(bits / np.log2(figures.experts))

    least = entropy(50.0)
    if not least < share <= 1:
        raise UserError(
            f"entropy={share:g}: cannot be with top-{figures.top_k} of {figures.experts}; allowed: {least:.3f} to 1"
        )
    factor = 0.0 if share == 1 else brentq(lambda at: entropy(at) - share, 0.0, 50.0, xtol=1e-9)
    made = replace(figures, popularity=tuple(tuple(map(float, np.sort(row))) for row in rows(factor)))
    return _alike_as(figures, means, made, centres + factor * (means - centres))


def with_overlap(figures: Figures, overlap: float) -> Figures:
    """A token shares this much of its experts with the one before, on average over the layers; further lags follow.

    UserError where popularity alone makes more, or nothing makes so much.
    """
    means, K = means_by_layer(figures), figures.top_k
    shares = shares_of(figures.overlap)
    if np.isnan(shares[:, 0]).all():
        raise UserError(f"overlap={overlap:g}: the figures {figures.name} know none; allowed: with figures that do")
    correlations = np.stack([correlations_of(row, wanted, K) for row, wanted in zip(means, shares, strict=True)])
    if not np.nanmax(correlations[:, 0]) > 0:
        correlations = np.ones_like(correlations) * 0.5 ** np.arange(correlations.shape[1])

    def found(factor: float) -> Array:
        # As many steps nearer to 1 at every lag: what lasts grows with what is near, as parts that fade make it.
        scaled = np.minimum(1 - (1 - np.nan_to_num(correlations)) ** factor, 0.9999)
        return np.stack([overlaps_of(row, each, K) for row, each in zip(means, scaled, strict=True)])

    least, most = float(found(0.0)[:, 0].mean()), float(found(1e6)[:, 0].mean())
    if not least <= overlap <= most:
        why = f"top-{K} of {figures.experts} with this popularity"
        raise UserError(f"overlap={overlap:g}: cannot be of {why}; allowed: {least:.3f} to {most:.3f}")
    factor = brentq(lambda at: found(np.expm1(at))[:, 0].mean() - overlap, 0.0, 14.0) if least < overlap < most else 0.0
    scale = np.expm1(factor)
    kept = tuple(_as_before(was, now) for was, now in zip(shares, found(scale), strict=True))
    kin = shares_of([figures.kinship])[0]
    related = np.stack([correlations_of(*it, K) for it in zip(means, np.nan_to_num(kin)[:, None], strict=True)])
    scaled = np.minimum(1 - (1 - related) ** scale, 0.9999)
    kinship = [overlaps_of(row, of, K)[0] for row, of in zip(means, scaled, strict=True)]
    made = replace(
        figures,
        overlap=kept,
        kinship=_as_before(kin, np.array(kinship)),
        popularity=tuple(tuple(map(float, np.sort(chances_of(row, K)))) for row in means),
    )
    return _alike_as(figures, means, made, means)


def _alike_as(figures: Figures, before: Array, made: Figures, means: Array) -> Figures:
    """``made``, of which requests keep as much of one another as those of ``figures``. Both have their means [L, E]."""
    was, now = between_in(figures), between_in(made)
    if not len(was.known):
        return made
    likeness = likeness_of(before, far_correlations(before, was.within, figures.top_k), was, figures.top_k)
    found = between_of(means, far_correlations(means, now.within, made.top_k), likeness, made.top_k)
    return replace(made, between=_as_before(was.shares, found))


def _as_before(before: Array, now: Array) -> tuple[float | None, ...]:
    """``now``, but for what was not known ``before``."""
    return tuple(None if np.isnan(was) else float(value) for was, value in zip(before, now, strict=True))


def shares_of(rows: Sequence[Sequence[float | None]]) -> Array:
    """[rows, shares], NaN for null."""
    return np.array([[np.nan if share is None else share for share in row] for row in rows])


def between_in(figures: Figures) -> Between:
    """What requests have in common."""
    overlap = shares_of(figures.overlap)
    last = [row[~np.isnan(row)][-1:] for row in overlap]
    within = np.array([share[0] if len(share) else np.nan for share in last])
    return Between(shares_of([figures.between or ()])[0], within, figures.requests)


def means_by_layer(figures: Figures) -> Array:
    """The means [L, E] that have the figures' popularity in the long run."""
    found = np.stack([resampled(means_of(np.array(row)), figures.experts) for row in figures.popularity])
    return lasting(found, between_in(figures), figures.top_k)
