"""Measure the figures of a trace's routing, a request at a time."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import norm

from traces.describe.stats import gate_recall
from traces.format.layout import PREFILL, Array
from traces.format.reader import Trace
from traces.kit.errors import UserError
from traces.synthesize.figures import DEGREES, LAGS, REQUESTS, SCHEMA, Figures
from traces.synthesize.law import RAREST, resampled

PIECE = 2048
"""Rows of a request that are compared with one another: memory does not grow with its length."""
QUANTILES = 11
_FROM = {
    **dict.fromkeys(("overlap", "kinship", "between", "popularity", "together"), "expert_ids"),
    "top_weight": "expert_weights",
    "gate_recall": "gate_ahead",
}
"""The signal on which a figure rests: it is assumed where that was modelled."""


class Sums:
    """What is added up of L layers of E experts, of requests from so many ``sources``: all counts are of experts."""

    def __init__(self, L: int, E: int, sources: int = 1, lags: Sequence[int] = LAGS) -> None:
        self.sources, self.lags = sources, lags
        self.rows, self.chosen = 0, np.zeros((L, E), np.int64)
        self.shared, self.possible = np.zeros((2, L, len(lags)), np.int64)
        self.pairs, self.each = 0, np.zeros(L)
        self.both = np.zeros((L, L))
        self.by_source: dict[str, Array] = {}
        self.rows_of: Counter[str] = Counter()
        self.own, self.own_pairs = np.zeros(L), 0.0
        self.before: deque[tuple[str, int, Array]] = deque(maxlen=REQUESTS)
        self.alike, self.compared = np.zeros((2, REQUESTS))

    def add_piece(self, held: Array) -> None:
        """Count ``held`` [rows, L, E], 1 where a token has chosen an expert: rows that follow one another."""
        chosen = held.sum(axis=2, dtype=np.int64)
        for place, lag in enumerate(self.lags):
            if lag >= len(held):
                break
            common = (held[:-lag] & held[lag:]).sum(axis=2, dtype=np.int64)
            self.shared[:, place] += common.sum(axis=0)
            self.possible[:, place] += (chosen[lag:] * (chosen[:-lag] > 0)).sum(axis=0)
            if lag == 1:
                self.pairs += len(common)
                self.each += common.sum(axis=0)
                self.both += common.T.astype(float) @ common.astype(float)

    @property
    def overlap(self) -> Array:
        """[L, lags]; NaN where there are no such tokens."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.shared / self.possible

    @property
    def together(self) -> float:
        """The mean correlation of two layers' overlaps with the token before; NaN where one of them never changes."""
        mean = self.each / max(1, self.pairs)
        spread = self.both / max(1, self.pairs) - np.outer(mean, mean)
        deviation, layers = np.sqrt(np.diag(spread)), len(mean)
        if layers < 2 or not deviation.all():
            return float("nan")
        return float(((spread / np.outer(deviation, deviation)).sum() - layers) / (layers * (layers - 1)))

    def add_request(self, source: str, rows: int, chosen: Array) -> None:
        """Count all of a request: ``chosen`` [L, E]."""
        self.rows += rows
        self.chosen += chosen
        self.by_source[source] = self.by_source.get(source, 0) + chosen
        self.rows_of[source] += rows
        self.own += (chosen.astype(float) ** 2).sum(axis=1)
        self.own_pairs += float(rows) ** 2
        counts = chosen.astype(float)
        for place, (other, its_rows, its_counts) in enumerate(self.before):
            if other != source or self.sources == 1:
                self.alike[place] += np.vdot(counts, its_counts)
                self.compared[place] += float(rows) * its_rows
        self.before.appendleft((source, rows, counts))


def measure(trace: Trace, name: str) -> Figures:
    """The figures of ``trace``, to be called ``name``. UserError where nothing is chosen: one expert per layer."""
    if trace.E < 2:
        raise UserError(f"{trace.path}: has one expert per layer, and no choice to describe; allowed: two or more")
    sums = Sums(trace.L, trace.E, len({request.source for request in trace.requests}))
    for source, rows, pieces in _requests(trace):
        chosen = np.zeros((trace.L, trace.E), np.int64)
        for held in pieces:
            chosen += held.sum(axis=0, dtype=np.int64)
            sums.add_piece(held)
        sums.add_request(source, rows, chosen)
    recall, made = gate_recall(trace)[1], trace.manifest.modelled
    how = "measured on routing that was modelled" if "expert_ids" in made else "measured"
    return Figures(
        schema=SCHEMA,
        name=name,
        source=f"{how}: {trace.manifest.model.name}, {sums.rows} tokens of {len(trace.requests)} requests, "
        f"trace {trace.sha256[:16]}",
        assumed=tuple(key for key, of in _FROM.items() if {"expert_ids", of} & made.keys()),
        layers=trace.L,
        experts=trace.E,
        top_k=trace.K,
        requests=len(trace.requests),
        topics=len(sums.by_source),
        prompt_rows=bool((trace.steps["phase"] == PREFILL).any()),
        prompt_tokens=_quantiles([request.prompt_tokens for request in trace.requests]),
        output_tokens=_quantiles([request.output_tokens for request in trace.requests]),
        lags=LAGS,
        overlap=tuple(_rounded(row, 4) for row in sums.overlap),
        kinship=_rounded(_kinship(sums, trace.K), 4),
        popularity=tuple(_popularity(row, sums.rows) for row in sums.chosen),
        together=None if np.isnan(sums.together) else round(sums.together, 4),
        top_weight=_top_weight(trace),
        gate_recall=None
        if recall is None or None in recall
        else tuple(round(float(r), 4) for r in recall if r is not None),
        between=_rounded(_between(sums, len(trace.requests), trace.L * trace.K), 4) or None,
    )


def _requests(trace: Trace) -> Iterator[tuple[str, int, Iterator[Array]]]:
    for request in trace.requests:
        rows = trace.rows_of(request.request)
        first, end = rows.start, rows.stop
        yield (
            request.source,
            end - first,
            (
                held_by(np.asarray(trace.expert_ids[at : min(at + PIECE, end)]), trace.E)
                for at in range(first, end, PIECE)
            ),
        )


def held_by(ids: Array, n_experts: int) -> Array:
    """Which experts each token has chosen, bool [rows, L, E], of ids [rows, L, K]; absent ones are above E."""
    held = np.zeros((*ids.shape[:2], n_experts + 1), bool)
    np.put_along_axis(held, np.minimum(ids, n_experts).astype(np.intp), values=True, axis=2)
    return held[..., :n_experts]


def _kinship(sums: Sums, top_k: int) -> Array:
    """The overlap of tokens of two requests from one source, where there are several sources."""
    shared = sum((counts.astype(float) ** 2).sum(axis=1) for counts in sums.by_source.values()) - sums.own
    pairs = sum(float(rows) ** 2 for rows in sums.rows_of.values()) - sums.own_pairs
    if len(sums.by_source) < 2 or not pairs:
        return np.full(len(sums.own), np.nan)
    return np.asarray(shared / pairs / top_k)


def _between(sums: Sums, requests: int, chosen: int) -> Array:
    """The overlap of tokens of two requests, by how far apart they are. ``chosen``: experts of a token, in all layers.

    Only as far as half of the requests are from another one: what few pairs have, is chance.
    """
    found, nearest, farthest = [], 1, 1
    while 2 * nearest <= requests and farthest <= REQUESTS:
        apart = slice(nearest - 1, farthest)
        pairs = sums.compared[apart].sum() * chosen
        found.append(sums.alike[apart].sum() / pairs if pairs else np.nan)
        nearest, farthest = farthest + 1, 2 * farthest
    return np.array(found)


def _popularity(chosen: Array, rows: int) -> tuple[float, ...]:
    chances = np.sort((chosen + 0.25) / (rows + 0.5))
    if len(chances) > DEGREES:
        chances = norm.cdf(resampled(norm.ppf(np.clip(chances, RAREST, 1 - RAREST)), DEGREES))
    return tuple(float(f"{chance:.4g}") for chance in chances)


def _top_weight(trace: Trace) -> float | None:
    weights = trace.expert_weights
    if weights is None:
        return None
    some = np.asarray(weights[:: max(1, trace.N // 20000)], np.float32)
    total = some.sum(axis=2)
    return round(float((some[..., 0][total > 0] / total[total > 0]).mean()), 4) if (total > 0).any() else None


def _quantiles(lengths: list[int]) -> tuple[int, ...]:
    return tuple(int(length) for length in np.quantile(lengths, np.linspace(0, 1, QUANTILES), method="nearest"))


def _rounded(values: Array, digits: int) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else round(float(value), digits) for value in values)
