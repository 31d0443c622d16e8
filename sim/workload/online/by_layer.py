"""Prompts that go through a layer whole, chunk by chunk, before the next layer (``prefill_order=layer_major``).

Whoever is given tokens is given all that it lacks: its prompt, or after a preemption all of its tokens. So the budget
of tokens says who joins a pass (whoever finds some of it left), and no longer how large that is. What is computed at a
time are *pieces*, each within the limits of a pass: the passes of a chunk-major scheduler that has these shares alone.
All pieces go through a layer before any goes through the next one, so that a layer event is one union.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.workload.online.batch import Limits, Share

Pieces = tuple[tuple[Share, ...], ...]


def pieces_of(shares: Sequence[Share], limits: Limits) -> Pieces:
    """What is computed at a time of the shares of a pass, in order; () where that is all at once.

    A piece has at most ``max_num_batched_tokens``, of one share at most ``long_prefill_token_threshold``; the shares
    come in their order, each with its next tokens.
    """
    left, done, found = list(shares), dict.fromkeys([share.id for share in shares], 0), list[tuple[Share, ...]]()
    while left:
        budget, piece = limits.max_num_batched_tokens, list[Share]()
        for share in left:
            tokens = min(limits.chunk(share.tokens - done[share.id]), budget)
            if tokens:
                piece.append(share.part(done[share.id], tokens))
                done[share.id] += tokens
                budget -= tokens
        found.append(tuple(piece))
        left = [share for share in left if done[share.id] < share.tokens]
    return tuple(found) if len(found) > 1 else ()


def places(shares: Sequence[Share], pieces: Pieces) -> list[NDArray[np.int64]]:
    """Of each piece, which of the rows of all shares are its own: their places, int64 [its rows]."""
    first, at = {}, 0
    for share in shares:
        first[share.id] = at - share.start
        at += share.tokens
    return [
        np.concatenate([np.arange(part.tokens) + first[part.id] + part.start for part in piece]) for piece in pieces
    ]


def tokens_by_piece(
    numbers: NDArray[np.int32], at: Sequence[NDArray[np.int64]], demand: Sequence[Sequence[int]], n_all: int
) -> list[list[list[int]]]:
    """Tokens of each piece of each expert, aligned with ``demand``: [layer][expert][piece].

    ``numbers``: expert numbers that the rows of a pass chose, int32 [rows, L, K], ``n_all``: none; ``at``: the rows of
    each piece.
    """
    counts: NDArray[Any] = np.stack([np.bincount(numbers[rows].ravel(), minlength=n_all + 1) for rows in at], axis=1)
    return [counts[experts].tolist() for experts in demand]
