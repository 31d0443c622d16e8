"""Which rows of a pass each expert is to compute, worked out on the host for all layers at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real.runtime.backend import Backend


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One layer's rows, n x K of them (a token once for each expert it chose), in the order of their experts."""

    ids: NDArray[np.int64]
    """[n, K]; E and above: no expert."""
    spans: dict[int, tuple[int, int]]
    """Expert of the layer -> its rows, first and end. Without those that no token chose."""
    full: bool
    """Whether every row has an expert."""
    tokens: Tensor | None = None
    """On the device, int64 [n * K]: the token of each row. None: there is one token, in the order of its choice."""
    back: Tensor | None = None
    """On the device, int64 [n * K]: the row of each token's choices, in token order. None as above."""
    on_device: Tensor | None = None
    """``ids`` on the device, for the grouped kernel, if it was asked for."""


def dispatch(ids: NDArray[np.int64], n_experts: int, backend: Backend, grouped: bool = False) -> list[Dispatch]:
    """The dispatch of each layer. ``ids`` [n, L, K]: experts of the pass's tokens, E and above for none.

    What the device is to have of it goes there in one upload; for a single token nothing does, but its ids where the
    kernel is ``grouped``.
    """
    n, n_layers, top_k = ids.shape
    layers = np.ascontiguousarray(ids.transpose(1, 0, 2))  # [L, n, K]
    if n == 1 and (alone := _of_one_token(layers, n_experts)) is not None:
        sent = _sent(backend, layers.reshape(n_layers, 1, top_k)) if grouped else None
        return [
            Dispatch(layers[i], spans, len(spans) == top_k, on_device=None if sent is None else sent[i])
            for i, spans in enumerate(alone)
        ]
    flat = np.minimum(layers.reshape(n_layers, n * top_k), n_experts)
    order = np.argsort(flat, axis=1, kind="stable")
    back = np.empty_like(order)
    np.put_along_axis(back, order, np.broadcast_to(np.arange(n * top_k), order.shape), axis=1)
    numbered = flat + np.arange(n_layers)[:, None] * (n_experts + 1)
    counts = np.bincount(numbered.reshape(-1), minlength=n_layers * (n_experts + 1)).reshape(n_layers, -1)
    ends = counts[:, :n_experts].cumsum(axis=1)
    arrays = [order // top_k, back, layers.reshape(n_layers, n * top_k)]
    sent = _sent(backend, np.stack(arrays[: 3 if grouped else 2]))
    tokens, rows = sent[0].unbind(0), sent[1].unbind(0)
    dispatched = []
    for i in range(n_layers):
        chosen = np.flatnonzero(counts[i, :n_experts])
        last = ends[i, chosen].tolist()
        spans = {x: (end - int(counts[i, x]), end) for x, end in zip(chosen.tolist(), last, strict=True)}
        own = sent[2, i].view(n, top_k) if grouped else None
        dispatched.append(Dispatch(layers[i], spans, not counts[i, n_experts], tokens[i], rows[i], own))
    return dispatched


def _sent(backend: Backend, numbers: NDArray[np.int64]) -> Tensor:
    return backend.upload(torch.from_numpy(np.ascontiguousarray(numbers, np.int64)))


def _of_one_token(layers: NDArray[np.int64], n_experts: int) -> list[dict[int, tuple[int, int]]] | None:
    """Spans where each row is one expert's; None if the token has an expert twice, as a lossy policy may want it."""
    found = []
    for row in layers[:, 0].tolist():
        spans = {x: (j, j + 1) for j, x in enumerate(row) if x < n_experts}
        if len(spans) < sum(x < n_experts for x in row):
            return None
        found.append(spans)
    return found
