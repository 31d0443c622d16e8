"""A small resident set that stands in for all experts: masked gating, importance, and who belongs to the set."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import MaskedWeights, Routing

Ids = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


def masked_gate(
    ids: Ids,
    weights: NDArray[Any],
    probs: NDArray[Any],
    virtual: NDArray[np.bool_],
    first: int,
    weigh: MaskedWeights | None = None,
) -> Routing:
    """Route each token to its top experts among the virtual ones, as many as the gate chose for it, or all there are.

    ``ids``, ``weights`` [rows, K]: what the gate chose (the dtype's maximum: absent); ``probs`` [rows, E]: the router's
    scores; ``virtual`` [E]; ``first``: expert number of the layer's expert 0. A mask changes no order: what was chosen
    and is virtual stays; the other slots get the highest scores among the remaining virtual experts (ties: lower
    index), or none. Kept mass: weights of the slots whose expert stays. In order of last use, as a demand set is.
    With ``weigh``, also who computes which token, unless all experts are virtual: then it is as the gate chose.
    """
    present = ids != np.iinfo(ids.dtype).max
    chosen = np.where(present, ids, 0).astype(np.int64)
    stays = virtual[chosen] & present
    slots, kept = int(np.count_nonzero(present)), int(np.count_nonzero(stays))
    mass = weights.astype(np.float64)
    used = np.where(stays, chosen, -1)
    if kept < slots:
        used = np.concatenate([used, _fill(used, present.sum(1), probs, virtual)], axis=1)
    flat = used[used >= 0]  # in token order
    if len(ids) == 1:
        demand, tokens = (flat + first).tolist(), [1] * len(flat)
    else:  # the last use of an expert is the first that unique() of the reversed order finds
        experts, last, counts = np.unique(flat[::-1], return_index=True, return_counts=True)
        order = np.argsort(-last)
        demand, tokens = (experts[order] + first).tolist(), counts[order].tolist()
    return Routing(
        demand,
        tokens,
        kept_mass=float(mass[stays].sum()),
        gate_mass=float(mass[present].sum()),
        slots=slots,
        substituted=len(flat) - kept,
        skipped=slots - len(flat),
        chosen=None if weigh is None or virtual.all() else _chosen(used, ids.shape[1], len(virtual), weigh, virtual),
    )


def _chosen(
    used: NDArray[np.int64], k: int, n_experts: int, weigh: MaskedWeights, virtual: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The experts that are ``used`` (-1: none) by each row, at most ``k``, and their weights, [rows, k]."""
    order = np.argsort(used < 0, axis=1, kind="stable")[:, :k]
    experts = np.take_along_axis(used, order, 1)
    experts[experts < 0] = n_experts
    return experts, weigh(experts, virtual)


def _fill(used: NDArray[np.int64], wanted: Ids, probs: NDArray[Any], virtual: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Experts for the slots of each row that lost theirs, [rows, K]; -1: none."""
    scores = np.where(virtual, probs.astype(np.float32), -np.inf)
    rows, slot = np.nonzero(used >= 0)
    scores[rows, used[rows, slot]] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, : used.shape[1]]
    lost = wanted - np.bincount(rows, minlength=len(used))
    able = np.take_along_axis(scores, best, 1) > -np.inf
    return np.where(able & (np.arange(best.shape[1]) < lost[:, None]), best, -1)


def token_norms(hidden: NDArray[Any]) -> Floats:
    """Euclidean norms over the last axis."""
    wide = hidden.astype(np.float64)
    return np.asarray(np.sqrt((wide * wide).sum(-1)))


def importance(ids: Ids, weights: NDArray[Any], norms: Floats | None, n_experts: int) -> Floats:
    """I(E_i, X) = sum over the tokens x that the gate sends to i of ||x|| G(x)_i, with ||E_i|| = 1.

    ``ids``, ``weights`` [rows, K] give [E]; [rows, L, K] give [L, E]. ``norms`` [rows] or [rows, L]: ||x||; None: 1.
    """
    shape = (*ids.shape[1:-1], n_experts)
    amounts = weights.astype(np.float64)
    if norms is not None:
        amounts *= norms[..., None]
    flat = ids.astype(np.int64)
    present = ids != np.iinfo(ids.dtype).max
    if ids.ndim == 3:
        flat += np.arange(ids.shape[1])[:, None] * n_experts
    return np.bincount(flat[present], amounts[present], int(np.prod(shape))).reshape(shape)


def ranked(ranking: NDArray[np.int64], weight: Floats) -> NDArray[np.int64]:
    """Experts by falling ``weight`` [L, E], [L, E]; equals in the order of the ``ranking`` so far.

    The n first are the virtual experts of a layer that has n: by the tie rule they leave only for a more important one.
    """
    order = np.argsort(-np.take_along_axis(weight, ranking, 1), axis=1, kind="stable")
    return np.take_along_axis(ranking, order, 1)
