"""Expert activation matrices: how many tokens each expert of each layer computed, in an iteration or in a request."""

from collections.abc import Collection as Several
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from policies.api import History, LayerEvent

Matrix = NDArray[np.float64]
"""Tokens per expert, whole numbers, [L * E] by expert number. Sums of their products are exact in any order."""


class Collection:
    """A bounded set of matrices of past requests (MoE-Infinity's EAMC), the similar ones replacing each other.

    O(capacity x L x E) per addition.
    """

    def __init__(self, capacity: int, n_layers: int, n_experts: int) -> None:
        self.capacity, self.shape = capacity, (n_layers, n_experts)
        self.size = 0
        self.counts = np.zeros((n_layers * n_experts, capacity))  # token counts, one matrix per column
        self.squares = np.zeros((n_layers, capacity))  # squared norm of the layers up to and including each

    def add(self, matrix: Matrix) -> None:
        """Store a request's matrix; once full, in the place of the most similar one, the older slot among equals."""
        if not matrix.any():
            return
        if self.size < self.capacity:
            place = self.size
            self.size += 1
        else:
            place = int(np.argmax(matrix @ self.counts / np.sqrt(self.squares[-1])))
        self.counts[:, place] = matrix
        self.squares[:, place] = np.cumsum((matrix**2).reshape(self.shape).sum(axis=1))

    def restore(self, counts: NDArray[np.generic]) -> None:
        """Hold these matrices, one per column, in the places that they had."""
        self.size = counts.shape[1]
        self.counts[:, : self.size] = counts
        by_layer = (self.counts**2).reshape(*self.shape, self.capacity).sum(axis=1)
        self.squares[:] = np.cumsum(by_layer, axis=0)

    def total(self, places: NDArray[np.intp]) -> Matrix:
        return np.asarray(self.counts[:, places].sum(axis=1))


class Requests:
    """The matrices so far of the requests under way, and the collections that they enter in the end.

    For decode and for prefill, in this order, so that whether a request's rows are of its prompt is an index.
    """

    def __init__(self, capacity: int, n_layers: int, n_experts: int) -> None:
        self.n_layers, self.n_experts = n_layers, n_experts
        self.collections = [Collection(capacity, n_layers, n_experts) for _ in range(2)]
        self.matrices: list[dict[int, Matrix]] = [{}, {}]  # per phase, by request

    def count(self, request: int, prefill: bool, experts: NDArray[np.int64], tokens: Matrix) -> None:
        """Add tokens of experts, each named once."""
        under_way = self.matrices[prefill]
        if request not in under_way:
            under_way[request] = np.zeros(self.n_layers * self.n_experts)
        under_way[request][experts] += tokens

    def close(self, prefill: bool, running: Several[int] = ()) -> None:
        """Collect what has gone through a phase: of those under way in it, all that its next pass leaves out.

        A decode pass has all requests that decode. The prefill of another says nothing of them.
        """
        under_way = self.matrices[prefill]
        for request in [x for x in under_way if x not in running]:
            self.collections[prefill].add(under_way.pop(request))

    def learn(self, history: History) -> None:
        first = np.arange(self.n_layers)[:, None] * self.n_experts
        for step in history.steps():
            self.close(step.prefill, (step.request,))
            ids = step.expert_ids()
            experts, tokens = np.unique((ids + first)[ids != np.iinfo(ids.dtype).max], return_counts=True)
            self.count(step.request, step.prefill, experts, tokens.astype(np.float64))
        for prefill in (False, True):
            self.close(prefill)


class Iteration:
    """The matrix of one request's current forward pass, as far as its gates have run, beside a collection's."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.dots = np.zeros(collection.capacity)
        self.square = 0.0

    def see(self, experts: NDArray[np.int64], tokens: Matrix) -> None:
        """A gate has run: ``tokens`` for each of these expert numbers. O(experts x capacity)."""
        self.dots += tokens @ self.collection.counts[experts]
        self.square += float(tokens @ tokens)

    def nearest(self, layer: int, n: int) -> NDArray[np.intp]:
        """Places of the ``n`` matrices with the least cosine distance in layers 0 to ``layer``, all equals included."""
        size = self.collection.size
        squares = self.collection.squares[layer, :size] * self.square
        similar = np.divide(self.dots[:size], np.sqrt(squares), out=np.zeros(size), where=squares > 0)
        if n >= size:
            return np.arange(size)
        return np.flatnonzero(similar >= np.partition(similar, size - n)[size - n])


def by_request(event: LayerEvent, n_experts: int) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
    """What each request of an event demands: expert numbers, and the tokens of each."""
    if len(event.requests) == 1:
        yield np.array(event.demand), np.array(event.tokens, np.float64)
        return
    ids, row = event.signals.expert_ids(), 0
    for rows in event.counts:
        mine, row = ids[row : row + rows], row + rows
        experts, tokens = np.unique(mine[mine != np.iinfo(ids.dtype).max], return_counts=True)
        yield experts + np.int64(event.layer * n_experts), tokens.astype(np.float64)


def shares(matrix: Matrix, n_layers: int) -> Matrix:
    """Each layer's counts divided by their sum, [L, E]; a layer without tokens stays 0."""
    rows = matrix.reshape(n_layers, -1)
    sums = rows.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(rows, sums, out=np.zeros_like(rows), where=sums > 0))
