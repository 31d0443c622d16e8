"""Residency: who has a slot, how much of it has arrived, who is pinned. No clock, no policy."""

from collections.abc import Sequence
from operator import index

import numpy as np

from policies.api import View


class CoreError(RuntimeError):
    """An invariant of the core is broken: a bug in the core, in a machine or in a policy, never a user's mistake."""


# What a load is, seen from compute that waits for one of its chunks; indexes the stall accounts.
DEMAND, LATE, SPECULATIVE = 0, 1, 2

# A speculative load's life.
NO_FATE, PENDING, ARRIVED = 0, 1, 2


def whole(numbers: Sequence[int]) -> list[int]:
    """Whole numbers that a policy has given, of whatever kind. CoreError if they are not whole."""
    try:
        return [index(n) for n in numbers]
    except TypeError:
        raise CoreError(f"a policy gave {numbers}; whole numbers are wanted") from None


def split_chunks(nbytes: int, chunks: int) -> list[int]:
    """Cut one expert into copy calls, the first ones a byte larger where it does not divide."""
    size, rest = divmod(nbytes, chunks)
    return [size + (i < rest) for i in range(chunks)]


class State:
    """Flat tables over experts (``layer * E + index``) and chunks (``expert * C + i``).

    With versions over items: each version's layers are layers here, one version's after the other's.

    The lists are shared with the core, which indexes them directly: they are never rebound.
    """

    def __init__(
        self,
        n_experts: int,
        expert_bytes: Sequence[int],
        chunks: int,
        capacity: int,
        layer_capacity: Sequence[int] | None,
        layers_per_share: int = 1,
    ) -> None:
        n_all = n_experts * len(expert_bytes)
        self.n_experts = n_experts
        self.chunks = chunks
        self.capacity = capacity
        self.layer_capacity = list(layer_capacity) if layer_capacity is not None else None
        """What each layer may hold; or so many layers together, as all of a version."""
        self.share_span = n_experts * layers_per_share
        """Experts per share: one is held against share ``expert // share_span``."""
        if self.layer_capacity is not None:
            needs = [max(expert_bytes[i : i + layers_per_share]) for i in range(0, len(expert_bytes), layers_per_share)]
            small = any(share < size for share, size in zip(self.layer_capacity, needs, strict=True))
            if small or sum(self.layer_capacity) > capacity:
                raise CoreError(f"layer shares {self.layer_capacity} do not suit {capacity} bytes")
        self.layer_used = [0] * (len(expert_bytes) // layers_per_share)
        self.used = 0
        self.peak = 0
        self.size = [b for b in expert_bytes for _ in range(n_experts)]
        self.total = sum(self.size)
        self.chunk_bytes = [c for b in expert_bytes for c in split_chunks(b, chunks) * n_experts]
        # Bytes on the GPU of an expert of a layer once i chunks are done: index layer * (C + 1) + i.
        self.arrived_bytes = [sum(split_chunks(b, chunks)[:i]) for b in expert_bytes for i in range(chunks + 1)]
        self.slot = bytearray(n_all)
        self.given = [0] * n_all  # chunks handed to the link
        self.done = [0] * n_all  # chunks that have arrived
        self.pinned = bytearray(n_all)
        self.kind = [DEMAND] * n_all  # of the load under way
        self.spec = [NO_FATE] * n_all
        self.spec_bytes = [0] * n_all  # handed to the link of a load that has no fate yet
        self.dropping = bytearray(n_all)  # cancelled while a chunk was on the link

    def view(self) -> View:
        """What a policy is given: questions, and no handle by which to change an answer."""
        slot, pinned, given, done, spec, chunks = self.slot, self.pinned, self.given, self.done, self.spec, self.chunks

        slots = np.frombuffer(memoryview(slot).toreadonly(), np.bool_)

        def evictable(expert: int) -> bool:
            return slot[expert] == 1 and not pinned[expert] and given[expert] == done[expert]

        def loading(expert: int) -> bool:
            return spec[expert] == PENDING or (pinned[expert] == 1 and done[expert] < chunks)

        return View(
            resident=lambda expert: slot[expert] == 1,
            complete=lambda expert: done[expert] == chunks,
            chunks_done=lambda expert: done[expert],
            evictable=evictable,
            loading=loading,
            free_bytes=lambda: self.capacity - self.used,
            residents=lambda: np.flatnonzero(slots).tolist(),
            slots=lambda: slots,
        )

    @property
    def holds_all(self) -> bool:
        """Whether every expert has a slot."""
        return self.used == self.total

    def fits(self, expert: int) -> bool:
        """Whether there is room for a slot for ``expert``."""
        size = self.size[expert]
        if self.used + size > self.capacity or self.layer_capacity is None:
            return self.used + size <= self.capacity
        layer = expert // self.share_span
        return self.layer_used[layer] + size <= self.layer_capacity[layer]
