"""What one forward pass is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Demand = list[list[int]]
"""Expert numbers per layer, the last token's experts last; within a token by descending weight."""


class Piece(NamedTuple):
    """A part of a pass that is computed by itself, layer by layer: the fields are those of :class:`Pass`."""

    rows: int
    kv_tokens: int
    pairs: int
    requests: int = 1
    """Whose rows these are: of as many are logits wanted."""


@dataclass(slots=True)
class Pass:
    """One forward pass: the prefill of one request, or one decode token of every active request; or, where requests
    arrive (sim.workload.online), any rows of prompts and any decode rows together.
    """

    prefill: bool
    """Whether any row is of a prompt."""
    requests: tuple[int, ...]
    parts: list[tuple[int, int]]
    """Rows of the trace: (first row, rows), one per request; a request is named twice where they do not follow on."""
    rows: int
    kv_tokens: int
    """Tokens in the KV caches that the pass reads, its own included, summed over requests."""
    pairs: int
    """(query, key) pairs that attention computes."""
    demand: Demand
    tokens: Demand
    """Tokens per expert, aligned with ``demand``."""
    admits: tuple[int, ...] = ()
    """Requests that are admitted at the moment this pass begins."""
    prompt_rows: tuple[int, ...] = ()
    """Of a mixed pass: of each request, how many of its rows, the first ones, are of a prompt. () of any other."""
    prompt_tokens: Sequence[Sequence[int]] = ()
    """The same of each expert's tokens, aligned with ``demand``."""
    pieces: tuple[Piece, ...] = ()
    """What its compute is priced as, where that is not all rows at once; () where it is."""
    piece_tokens: Sequence[Sequence[Sequence[int]]] = ()
    """Tokens per piece of each expert, aligned with ``demand``: [layer][expert][piece]."""

    @property
    def kind(self) -> int:
        """An index of sim.core.accounts.KINDS."""
        return 2 if self.prompt_rows else 0 if self.prefill else 1
