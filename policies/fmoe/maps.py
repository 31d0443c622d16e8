"""fMoE's expert maps: what iterations show, the store of earlier ones, and the two searches for one that was alike.

An *iteration* is one forward pass of one request. Its *context* is an embedding and an *expert map*: the router's
distribution over experts at every layer, [L, E].

All vectors are rounded to float16 with no entry above 1, so that every entry is a whole multiple of 2**-24, and what is
multiplied and added in a dot product is exact in float64. No order of summation, and with it no number of BLAS threads,
can therefore change a score, and equal contexts tie exactly (decode steps of the same token have the same embedding).
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import PastStep, Signal, Signals
from policies.signals import marks

Reals = NDArray[np.float64]
Prefill = Literal["mean", "last", "unpredicted"]
_LEAST = np.float64(1e-300)  # what is not 0 is more

Match = tuple[list[int], list[float]]
"""Of each iteration: the place of the most similar context, and how similar it is."""


def distribution(scores: NDArray[Any]) -> Reals:
    """Scores over experts [..., E], at least 0, brought to the sum of 1 (sigmoid's have another) and rounded."""
    exact = np.asarray(scores, np.float64)
    return _rounded(exact / np.maximum(np.add.reduce(exact, axis=-1, keepdims=True), _LEAST))


def direction(vectors: NDArray[Any]) -> Reals:
    """Vectors [..., D] to length 1, rounded; 0 stays 0."""
    exact = np.asarray(vectors, np.float64)
    return _rounded(exact / _length(np.square(exact).sum(axis=-1, keepdims=True)))


def _rounded(exact: Reals) -> Reals:
    return np.asarray(exact.astype(np.float16), np.float64)


def _length(squared: Reals) -> Reals:
    """Square roots, where a vector of length 0 is taken to be long, to be similar to nothing."""
    return np.where(squared > 0, np.sqrt(squared), np.inf)


class Contexts:
    """Reads contexts from signals; O(rows x E) per layer.

    Of several tokens of a request, the prefill, a map is the mean; an embedding is the mean, or the ``last`` token's.
    ``choices``: maps give an equal share to each chosen expert. ``embeds``: whether embeddings are read at all.
    """

    def __init__(self, n_experts: int, prefill: Prefill, *, choices: bool, embeds: bool) -> None:
        self.n_experts, self.prefill, self.choices, self.embeds = n_experts, prefill, choices, embeds

    def needs(self) -> frozenset[Signal]:
        wanted = {Signal.ROUTER_PROBS: not self.choices, Signal.EMBEDDING: self.embeds}
        return frozenset(signal for signal, is_wanted in wanted.items() if is_wanted)

    def past(self, step: PastStep) -> tuple[Reals, Reals | None]:
        """Maps [n, L, E] and embeddings [n, D] of a train step: one, or one per token where prefill is unpredicted."""
        counts = [1] * step.rows if self.prefill == "unpredicted" else [step.rows]
        seen = marks(step.expert_ids(), self.n_experts) if self.choices else step.router_probs()
        maps = _total(seen.reshape(step.rows, -1), counts).reshape(len(counts), *seen.shape[1:])
        return distribution(maps), self.embedded(step.embedding(), counts) if self.embeds else None

    def shown(self, signals: Signals, counts: Sequence[int]) -> Reals:
        """What the current layer's gate shows of each request, [len(counts), E]."""
        seen = marks(signals.expert_ids(), self.n_experts) if self.choices else signals.router_probs()
        return distribution(_total(seen, counts))

    def embedded(self, rows: NDArray[np.float16], counts: Sequence[int]) -> Reals:
        """Embeddings of each request, [len(counts), D], of its rows [n, D]."""
        return direction(rows[np.cumsum(counts) - 1] if self.prefill == "last" else _total(rows, counts))


def _total(rows: NDArray[Any], counts: Sequence[int]) -> Reals:
    """Rows [n, X], summed over those of each request, [len(counts), X]: their mean, up to its length."""
    exact = rows.astype(np.float64)
    if len(counts) == len(rows):
        return exact
    ends = np.cumsum(counts)
    return np.add.reduceat(exact, ends - np.array(counts), axis=0)


class ExpertMaps:
    """Up to ``capacity`` contexts. ``distance`` is fMoE's d, the share that embeddings have in a replacement.

    Memory: 8 x capacity x (L x E + D) bytes of the host. A search costs O(capacity x D) for embeddings, and
    O(capacity x E) per layer for maps, whose dot products :class:`Trajectory` carries from layer to layer.
    """

    def __init__(self, n_layers: int, n_experts: int, capacity: int, distance: int) -> None:
        self.n_layers, self.capacity = n_layers, capacity
        self.weight = distance / n_layers
        self.size = 0
        self.maps = np.zeros((n_layers, capacity, n_experts))
        self.lengths = np.full((n_layers, capacity), np.inf)  # of the flattened first l + 1 layers, [L, C]
        self.embeddings = np.zeros((capacity, 0))
        self.embedding_lengths = np.full(capacity, np.inf)

    def semantic(self, embeddings: Reals) -> Reals:
        """Cosines of embeddings [n, D] (see :func:`direction`) with the stored ones, [n, size]."""
        dots = embeddings @ self.embeddings[: self.size].T
        lengths = _length(np.square(embeddings).sum(axis=1, keepdims=True))
        return np.asarray(dots / (lengths * self.embedding_lengths[: self.size]))

    def add(self, maps: Reals, embeddings: Reals | None, redundancy: Reals | None = None) -> None:
        """Store contexts, one after the other: maps [n, L, E] and embeddings [n, D], or None where none are compared.

        While there is room a context is appended. Then it takes the place of the most redundant one, the argmax of
        RDY = d/L x cosine of embeddings + (L - d)/L x cosine of maps; ties: the one stored first, in its place.
        ``redundancy``: RDY with what is stored, [n, size], if it is known.
        """
        room = min(self.capacity - self.size, len(maps))
        for i in range(room):
            self.size += 1
            self._put(self.size - 1, maps[i], None if embeddings is None else embeddings[i])
        if room == len(maps):
            return
        maps, embeddings = maps[room:], None if embeddings is None else embeddings[room:]
        rdy = self.redundancy(maps, embeddings) if redundancy is None or room else redundancy.copy()
        among = ExpertMaps(self.n_layers, maps.shape[2], len(maps), 0)
        among.weight = self.weight
        if len(maps) > 1:
            among.add(maps, embeddings)
            mutual = among.redundancy(maps, embeddings)
        for i in range(len(maps)):
            y = int(rdy[i].argmax())
            self._put(y, maps[i], None if embeddings is None else embeddings[i])
            if i + 1 < len(maps):
                rdy[i + 1 :, y] = mutual[i + 1 :, i]

    def kept(self) -> dict[str, NDArray[np.generic]]:
        """What is stored, without a loss: all of it was rounded to float16."""
        size = self.size
        return {"maps": self.maps[:, :size].astype(np.float16), "embeddings": self.embeddings[:size].astype(np.float16)}

    def restore(self, kept: Mapping[str, NDArray[np.generic]]) -> None:
        """Hold what another one has :meth:`kept`, in the places that it had."""
        maps, embeddings = (np.asarray(kept[name], np.float64) for name in ("maps", "embeddings"))
        self.size = maps.shape[1]
        for y in range(self.size):
            self._put(y, maps[:, y], embeddings[y] if embeddings.shape[1] else None)

    def redundancy(self, maps: Reals, embeddings: Reals | None) -> Reals:
        """RDY of contexts with the stored ones, [n, size]."""
        trajectory = Trajectory(self, len(maps))
        for layer in range(self.n_layers):
            trajectory.observe(layer, maps[:, layer])
        by_embedding = None if embeddings is None else self.semantic(embeddings)
        return self.mixed(trajectory.cosines(self.n_layers - 1), by_embedding)

    def mixed(self, by_map: Reals, by_embedding: Reals | None) -> Reals:
        """RDY of the two cosines; where no embeddings are compared, it is that of the maps."""
        return by_map if by_embedding is None else self.weight * by_embedding + (1.0 - self.weight) * by_map

    def _put(self, y: int, one: Reals, embedding: Reals | None) -> None:
        self.maps[:, y] = one
        self.lengths[:, y] = _length(np.square(one).sum(axis=1).cumsum())
        if embedding is not None:
            if self.embeddings.shape[1] != len(embedding):
                self.embeddings = np.zeros((self.capacity, len(embedding)))
            self.embeddings[y] = embedding
            self.embedding_lengths[y] = _length(np.square(embedding).sum())


class Trajectory:
    """What ``n`` iterations under way have shown so far, and its dot products with all that is stored.

    A layer adds its own products to those of the layers before, O(capacity x E) instead of O(capacity x l x E).
    """

    def __init__(self, store: ExpertMaps, n: int) -> None:
        self.store = store
        self.maps = np.zeros((n, store.n_layers, store.maps.shape[2]))
        self.dots = np.zeros((n, store.size))
        self.squares = np.zeros(n)

    def observe(self, layer: int, probs: Reals) -> None:
        """Layer ``layer`` has shown these distributions, [n, E] (see :func:`distribution`)."""
        self.maps[:, layer] = probs
        stored = self.store.maps[layer, : self.dots.shape[1]]
        for i, row in enumerate(probs):
            self.dots[i] += stored.dot(row)
            self.squares[i] += row.dot(row)

    def cosines(self, layer: int) -> Reals:
        """Cosines of the flattened layers 0 to ``layer``, all shown, with the stored ones, [n, size]."""
        return np.asarray(self.dots / (_length(self.squares)[:, None] * self.store.lengths[layer, : self.store.size]))

    def best(self, layer: int) -> Match:
        """The most similar ones of :meth:`cosines`, without the own length in every quotient."""
        places, ratios = best(self.dots / self.store.lengths[layer, : self.store.size])
        squares = self.squares.tolist()
        return places, [r / sqrt(square) if square else 0.0 for r, square in zip(ratios, squares, strict=True)]


def best(rows: Reals) -> Match:
    """The largest of each row [n, size], the one in the first place among equals."""
    places = [int(row.argmax()) for row in rows]
    return places, [float(row[y]) for row, y in zip(rows, places, strict=True)]
