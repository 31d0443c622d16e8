"""Train requests as one sequence of tokens: what was seen after each, and how soon each expert came again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.api import PastRequest
from policies.next_use.recent import Reals, Recent

BEYOND = 400
"""Tokens to the next choice of what is not chosen again."""


@dataclass(frozen=True, slots=True)
class Past:
    """Tokens of requests, one after the other: ``ids`` [n, L, K], ``probs`` [n, L, E], and which begin a request."""

    ids: NDArray[np.integer]
    probs: NDArray[np.floating] | None
    begins: frozenset[int]


def tokens_of(requests: Iterable[PastRequest], scores: bool, most: int) -> Past:
    """The first ``most`` of all tokens."""
    ids, probs, begins, left = [], [], set(), most
    for request in requests:
        begins.add(most - left)
        ids.append(request.expert_ids()[:left])
        if scores:
            probs.append(request.router_probs()[:left])
        left -= len(ids[-1])
        if left <= 0:
            break
    return Past(np.concatenate(ids), np.concatenate(probs) if scores else None, frozenset(begins))


def replayed(past: Past, popular: Reals, *, shares: bool = True) -> Iterable[Recent]:
    """What was seen after each token."""
    ids, probs = past.ids, past.probs
    recent = Recent(*popular.shape, scores=probs is not None, popular=popular, shares=shares)
    for row in range(len(ids)):
        if row in past.begins:
            recent.begin()
        recent.see(slice(None), ids[row : row + 1], None if probs is None else probs[row : row + 1])
        yield recent


def distances(chosen: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Of each token the tokens from the next one on until each expert is chosen, [n, L, E]."""
    until = np.empty(chosen.shape, np.int16)
    at = np.full(chosen.shape[1:], BEYOND, np.int16)
    for row in range(len(chosen) - 1, -1, -1):
        until[row] = at
        at = np.where(chosen[row], 0, np.minimum(at + 1, BEYOND)).astype(np.int16)
    return until
