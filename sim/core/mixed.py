"""Passes of prompts and decode rows together: whose rows chose which expert, and what was there of it (rule 4)."""

from collections.abc import Sequence

from policies.api import LayerEvent
from sim.core.accounts import (
    BYTES_DEMANDED,
    BYTES_READY,
    COMPLETE,
    DECODE,
    FETCHED,
    LOOKUPS,
    PREDICTED,
    PREFILL,
    RECALL,
    RESIDENT,
    SHARED,
)
from sim.core.state import CoreError, State


def check_rows(prompts: Sequence[int], counts: Sequence[int], *, prefill: bool) -> None:
    """CoreError where ``prompts`` are not the rows of prompts of a mixed pass with ``counts`` rows per request."""
    fits = len(prompts) == len(counts) and all(0 <= n <= rows for n, rows in zip(prompts, counts, strict=True))
    if not (prefill and fits and 0 < sum(prompts) < sum(counts)):
        raise CoreError(f"a pass of {list(counts)} rows, of which {list(prompts)} are of prompts, is not mixed")


def classes(demand: Sequence[int], tokens: Sequence[int], prompts: Sequence[int]) -> dict[int, int]:
    """The class of each lookup of an event. CoreError where nobody said how many tokens are of prompts."""
    if len(prompts) != len(demand):
        raise CoreError(f"an event of a mixed pass with {len(demand)} experts, told of {len(prompts)} with prompts")
    return {
        x: SHARED if 0 < n < all_ else PREFILL if n else DECODE
        for x, all_, n in zip(demand, tokens, prompts, strict=True)
    }


def count(
    hits: Sequence[Sequence[list[int]]],
    event: LayerEvent,
    state: State,
    classes: dict[int, int],
    foretold: set[int] | None,
) -> None:
    """Add an event's lookups to the hit rows of their classes, wherever they are computed.

    What a lossy policy computes in the place of another counts as shared, as does what was predicted in vain: no row
    of the trace says whose it is.
    """
    rows = [of_class[event.layer] for of_class in hits]
    chunks, done = state.chunks, state.done
    for x, n in zip(event.demand, event.tokens, strict=True):
        if n:
            row = rows[classes.get(x, SHARED)]
            row[LOOKUPS] += 1
            row[RESIDENT] += state.slot[x]
            row[COMPLETE] += done[x] == chunks
            row[BYTES_READY] += state.arrived_bytes[x // state.n_experts * (chunks + 1) + done[x]]
            row[BYTES_DEMANDED] += state.size[x]
            row[RECALL] += foretold is not None and x in foretold
    for x in foretold or ():
        row = rows[classes.get(x, SHARED)]
        row[PREDICTED] += 1
        row[FETCHED] += done[x] == chunks
