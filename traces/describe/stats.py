"""Figures that describe the routing of a trace, computed in chunks of bounded memory."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from traces.describe.repeats import Repeats, repeats_of
from traces.format.layout import DECODE, MANIFEST_FILE, PREFILL, Array
from traces.format.npy import row_chunks
from traces.format.reader import Trace
from traces.kit.errors import refusal

MAX_COUNTED = 2**20
MAX_SOURCES = 12
"""Sources with figures of their own; where there are more, the smaller ones are taken together."""


_CELLS = 2**17


@dataclass(frozen=True)
class Reuse:
    """Distances of all lookups. ``counts[l, d]``: lookups of layer l at distance d, 0 to E - 1.

    ``first[l]``: lookups of an expert that was not demanded before. Steps are taken one after the other, as
    recorded, also across requests. Within a step the last token's experts are the most recent ones; a lookup is
    judged by what was before its step. So a pool of c slots for the layer that evicts the least recently used
    hits the lookups at a distance below c (as long as a step's demand fits into it).
    """

    counts: Array
    first: Array

    def quantile(self, share: float) -> Array:
        """Return per layer the distance that ``share`` of the lookups with a distance do not exceed; NaN for none."""
        below = np.cumsum(self.counts, axis=1)
        reached = below >= share * below[:, -1:]
        return np.where(below[:, -1] > 0, np.argmax(reached, axis=1), np.nan)

    def within(self) -> Array:
        """Return [E]: the share of all lookups, over all layers, at a distance of at most 0 to E - 1."""
        lookups = self.counts.sum() + self.first.sum()
        within: Array = np.cumsum(self.counts.sum(axis=0)) / max(1, lookups)
        return within


@dataclass(frozen=True)
class Stats:
    """What ``inspect`` shows. Per layer: arrays [L]; NaN where a figure has no rows to stand on.

    ``popularity`` [L, E]: how often each expert was chosen. ``overlap``: share of a token's experts that the previous
    token of its request also chose, by chance ``uniform_overlap`` = K / E. ``entropy_bits`` of the popularity of
    experts, at most log2 E. ``load_max_over_mean`` of the times that experts were chosen. ``reuse``: distances between
    demands. ``gate_recall[a - 1, l]``: share of the experts of layer l that its gate, applied to what entered the gate
    of layer l - a, names too; None where no gate was applied ahead. By source, S of them in ``domains`` with their
    tokens by phase: ``source_overlap`` [S], the mean over the layers; ``source_cosine`` [S, S], between the
    popularities of all experts (1: alike). ``repeats``: rows that repeat the row before.
    """

    steps: dict[str, int]
    tokens: dict[str, int]
    sources: dict[str, int]
    splits: dict[str, int]
    popularity: Array
    overlap: Array
    uniform_overlap: float
    entropy_bits: Array
    load_max_over_mean: Array
    reuse: Reuse
    gate_recall: Array | None
    gate_recall_by_distance: list[float | None] | None
    domains: dict[str, dict[str, int]]
    source_overlap: Array
    source_cosine: Array
    repeats: Repeats


def describe(trace: Trace) -> Stats:
    """Compute the figures of ``trace``; TraceError where it has more experts than a figure can count."""
    if trace.L * trace.E > MAX_COUNTED:
        found = f"{trace.L} x {trace.E}"
        raise refusal(MANIFEST_FILE, "layers x experts", found, f"at most {MAX_COUNTED} for inspect")
    phase, rows = trace.steps["phase"], trace.steps["rows"].astype(np.int64)
    phases = {"prefill": phase == PREFILL, "decode": phase == DECODE}
    owner = np.repeat(trace.steps["request"], rows)
    names, source_of = _sources(trace)
    domains = {}
    for number, name in enumerate(names):
        mine = source_of[trace.steps["request"]] == number
        domains[name] = {key: int(rows[chosen & mine].sum()) for key, chosen in phases.items()}

    popularity = np.zeros((len(names), trace.L, trace.E), np.int64)
    shared, pairs = np.zeros((2, len(names), trace.L), np.int64)
    previous, previous_owner = np.empty((0, trace.L, trace.K), trace.expert_ids.dtype), owner[:0]
    for chunk in row_chunks(trace.N, 8 * trace.L * trace.K * (trace.K + 1)):
        ids = np.asarray(trace.expert_ids[chunk])
        owners = np.concatenate([previous_owner, owner[chunk]])
        joined = np.concatenate([previous, ids])
        hits, both = _shared(joined[:-1], joined[1:], owners[:-1] == owners[1:], trace.absent)
        np.add.at(shared, source_of[owners[1:]], hits)
        np.add.at(pairs, source_of[owners[1:]], both)
        for number in np.unique(source_of[owner[chunk]]):
            mine = ids[source_of[owner[chunk]] == number]
            for layer in range(trace.L):
                chosen = np.bincount(mine[:, layer].ravel(), minlength=trace.absent + 1)
                popularity[number, layer] += chosen[: trace.E]
        previous, previous_owner = ids[-1:], owner[chunk][-1:]

    total = popularity.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = total / total.sum(axis=1, keepdims=True)
        information = np.where(share > 0, -np.log2(share), 0)
        entropy = np.where(total.any(axis=1), (np.nan_to_num(share) * information).sum(axis=1), np.nan)
        overlap = shared.sum(axis=0) / pairs.sum(axis=0)
        balance = total.max(axis=1) / total.mean(axis=1)
        by_source = shared.sum(axis=1) / pairs.sum(axis=1)
        flat = popularity.reshape(len(names), -1)
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    recall, by_distance = gate_recall(trace)
    return Stats(
        steps={name: int(chosen.sum()) for name, chosen in phases.items()},
        tokens={name: int(rows[chosen].sum()) for name, chosen in phases.items()},
        sources=dict(Counter(request.source for request in trace.requests).most_common()),
        splits=dict(sorted(Counter(request.split or "none" for request in trace.requests).items())),
        popularity=total,
        overlap=overlap,
        uniform_overlap=trace.K / trace.E,
        entropy_bits=entropy,
        load_max_over_mean=balance,
        reuse=reuse_distances(trace),
        gate_recall=recall,
        gate_recall_by_distance=by_distance,
        domains=domains,
        source_overlap=by_source,
        source_cosine=np.clip(unit @ unit.T, 0, 1),
        repeats=repeats_of(trace),
    )


def _sources(trace: Trace) -> tuple[list[str], Array]:
    """Return the names of the sources, the one with most requests first, and which one each request has."""
    count = Counter(request.source for request in trace.requests)
    names = [name for name, _ in count.most_common()]
    if len(names) > MAX_SOURCES:
        names = [*names[: MAX_SOURCES - 1], f"{len(names) - MAX_SOURCES + 1} others"]
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(request.source, len(names) - 1) for request in trace.requests])


def _shared(before: Array, after: Array, related: Array, absent: int) -> tuple[Array, Array]:
    """Count per row and layer the entries of ``after`` that ``before`` holds too, and those that could."""
    seen = (before != absent).any(axis=-1, keepdims=True) & related[:, None, None]
    possible = (after != absent) & seen
    found = (after[..., :, None] == before[..., None, :]).any(axis=-1) & possible
    return found.sum(axis=2), possible.sum(axis=2)


def gate_recall(trace: Trace) -> tuple[Array | None, list[float | None] | None]:
    """Return the recall by distance and layer, NaN where there is none, and by distance over all layers."""
    ahead = trace.gate_ahead
    if ahead is None:
        return None, None
    found, possible = np.zeros((2, ahead.shape[2], trace.L), np.int64)
    for chunk in row_chunks(trace.N, 8 * trace.L * trace.K * (trace.K + 1)):
        ids, named = np.asarray(trace.expert_ids[chunk]), np.asarray(ahead[chunk])
        for distance in range(min(ahead.shape[2], trace.L - 1)):
            true, guess = ids[:, distance + 1 :], named[:, : trace.L - distance - 1, distance]
            hits, both = _shared(guess, true, np.ones(len(ids), bool), trace.absent)
            found[distance, distance + 1 :] += hits.sum(axis=0)
            possible[distance, distance + 1 :] += both.sum(axis=0)
    with np.errstate(invalid="ignore"):
        recall = found / possible
    totals = zip(found.sum(axis=1), possible.sum(axis=1), strict=True)
    return recall, [float(hit / of) if of else None for hit, of in totals]


def reuse_distances(trace: Trace) -> Reuse:
    """Count the distances of ``trace``, in chunks of steps that bound the memory."""
    counts, first = np.zeros((trace.L, trace.E), np.int64), np.zeros(trace.L, np.int64)
    used = np.zeros((trace.L, trace.E), np.int64)
    """When each expert was demanded last; only the order counts, and 0 is never."""
    start, ends = 0, (trace.steps["first_row"] + trace.steps["rows"]).astype(np.int64)
    while start < len(ends):
        first_row = int(trace.steps["first_row"][start])
        # As many steps as bound rows x K and steps x E, but at least one.
        rows = max(1, _CELLS // (trace.E + trace.K))
        stop = max(start + 1, int(np.searchsorted(ends, first_row + rows, side="right")))
        ids = np.asarray(trace.expert_ids[first_row : ends[stop - 1]])
        step = np.repeat(np.arange(stop - start), trace.steps["rows"][start:stop])
        for layer in range(trace.L):
            _count(ids[:, layer], step, used[layer], counts[layer], first[layer : layer + 1])
        start = stop
    return Reuse(counts, first)


def _count(ids: Array, step: Array, used: Array, counts: Array, first: Array) -> None:
    """Add one layer's lookups of some steps to ``counts`` and ``first``; ``used`` is brought up to date."""
    n_experts, (rows, top_k) = len(used), ids.shape
    # Only the order of times counts: those before this chunk become 1 to E, so that 32 bits do.
    order = np.argsort(used, kind="stable")
    past = np.zeros(n_experts + 1, np.int32)
    past[order] = np.where(used[order] > 0, np.arange(1, n_experts + 1), 0)
    time = np.arange(n_experts + 1, n_experts + 1 + rows * top_k, dtype=np.int32).reshape(rows, top_k)
    # One more column takes the absent entries. The last of several demands of a step wins.
    demand = np.zeros((step[-1] + 2, n_experts + 1), np.int32)
    demand[np.broadcast_to(step[:, None] + 1, ids.shape), np.minimum(ids, n_experts)] = time
    demand[0] = past
    demand = demand[:, :n_experts]
    last = np.maximum.accumulate(demand, axis=0)
    used[:] = last[-1]
    step_of, expert = np.nonzero(demand[1:])
    for begin in range(0, len(step_of), max(1, _CELLS // n_experts)):
        part = slice(begin, begin + max(1, _CELLS // n_experts))
        before = last[step_of[part]]
        own = before[np.arange(len(before)), expert[part]]
        known = own > 0
        distance = (before[known] > own[known, None]).sum(axis=1)
        counts += np.bincount(distance, minlength=n_experts)
        first += len(own) - int(known.sum())
