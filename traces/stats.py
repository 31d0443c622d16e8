"""Figures that describe the routing of a trace, computed in chunks of bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from traces.format import DECODE, PREFILL, Array
from traces.reader import Trace, row_chunks


@dataclass(frozen=True)
class Stats:
    """What ``inspect`` shows. Per layer: arrays [L]; None where a figure has no rows to stand on.

    ``overlap``: share of a token's experts that the previous token of its request also chose, by chance
    ``uniform_overlap`` = K / E. ``entropy_bits`` of the popularity of experts, at most log2 E. ``load_max_over_mean``
    of the times that experts were chosen. ``gate_recall[a - 1]``: share of the experts of layer l + a that the gate
    of that layer, applied to what entered the gate of layer l, names too.
    """

    steps: dict[str, int]
    tokens: dict[str, int]
    sources: dict[str, int]
    splits: dict[str, int]
    popularity: Array
    """How often each expert was chosen [L, E]."""
    overlap: Array
    uniform_overlap: float
    entropy_bits: Array
    load_max_over_mean: Array
    gate_recall: list[float | None] | None


def describe(trace: Trace) -> Stats:
    """Compute the figures of ``trace``; a layer without rows gives NaN."""
    phase, rows = trace.steps["phase"], trace.steps["rows"].astype(np.int64)
    phases = {"prefill": phase == PREFILL, "decode": phase == DECODE}
    popularity = np.zeros((trace.L, trace.E), np.int64)
    shared, pairs = np.zeros(trace.L, np.int64), np.zeros(trace.L, np.int64)
    owner = np.repeat(trace.steps["request"], rows)
    previous, previous_owner = np.empty((0, trace.L, trace.K), trace.expert_ids.dtype), owner[:0]
    for chunk in row_chunks(trace.N, 8 * trace.L * trace.K * (trace.K + 1)):
        ids = np.asarray(trace.expert_ids[chunk])
        for layer in range(trace.L):
            popularity[layer] += np.bincount(ids[:, layer].ravel(), minlength=trace.absent + 1)[: trace.E]
        joined = np.concatenate([previous, ids])
        owners = np.concatenate([previous_owner, owner[chunk]])
        hits, both = _shared(joined[:-1], joined[1:], owners[:-1] == owners[1:], trace.absent)
        shared, pairs = shared + hits, pairs + both
        previous, previous_owner = ids[-1:], owner[chunk][-1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = popularity / popularity.sum(axis=1, keepdims=True)
        information = np.where(share > 0, -np.log2(share), 0)
        entropy = np.where(popularity.any(axis=1), (np.nan_to_num(share) * information).sum(axis=1), np.nan)
        overlap = shared / pairs
        balance = popularity.max(axis=1) / popularity.mean(axis=1)
    return Stats(
        steps={name: int(chosen.sum()) for name, chosen in phases.items()},
        tokens={name: int(rows[chosen].sum()) for name, chosen in phases.items()},
        sources=dict(Counter(request.source for request in trace.requests).most_common()),
        splits=dict(sorted(Counter(request.split or "none" for request in trace.requests).items())),
        popularity=popularity,
        overlap=overlap,
        uniform_overlap=trace.K / trace.E,
        entropy_bits=entropy,
        load_max_over_mean=balance,
        gate_recall=_gate_recall(trace),
    )


def _shared(before: Array, after: Array, related: Array, absent: int) -> tuple[Array, Array]:
    """Count per layer the entries of ``after`` that ``before`` holds too, and those that could."""
    seen = (before != absent).any(axis=-1, keepdims=True) & related[:, None, None]
    possible = (after != absent) & seen
    found = (after[..., :, None] == before[..., None, :]).any(axis=-1) & possible
    return found.sum(axis=(0, 2)), possible.sum(axis=(0, 2))


def _gate_recall(trace: Trace) -> list[float | None] | None:
    ahead = trace.gate_ahead
    if ahead is None:
        return None
    distances = ahead.shape[2]
    found, possible = np.zeros(distances, np.int64), np.zeros(distances, np.int64)
    for chunk in row_chunks(trace.N, 8 * trace.L * trace.K * (trace.K + 1)):
        ids, named = np.asarray(trace.expert_ids[chunk]), np.asarray(ahead[chunk])
        for distance in range(min(distances, trace.L - 1)):
            true, guess = ids[:, distance + 1 :], named[:, : trace.L - distance - 1, distance]
            hits, both = _shared(guess, true, np.ones(len(ids), bool), trace.absent)
            found[distance] += hits.sum()
            possible[distance] += both.sum()
    return [float(hit / of) if of else None for hit, of in zip(found, possible, strict=True)]
