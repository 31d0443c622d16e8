"""The least time that any lossless policy can take, in whole nanoseconds."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class Work(Protocol):
    """One forward pass."""

    rows: int
    kv_tokens: int
    pairs: int

    @property
    def requests(self) -> Sequence[int]: ...
    @property
    def tokens(self) -> Sequence[Sequence[int]]:
        """Per layer, the tokens of each expert demanded."""


class Prices(Protocol):
    """What compute costs, in whole nanoseconds."""

    launch_ns: int
    layer_overhead_ns: int

    def expert_table(self, layer: int, max_tokens: int) -> Sequence[int]:
        """Durations of one expert by tokens, from 0 to at least ``max_tokens``."""

    def dense_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        """The dense part of one layer."""

    def lead_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        """What a pass pays once, before its first layer."""

    def head_ns(self, logit_rows: int) -> int:
        """What a pass pays once, after its last layer."""


def compute_floor_ns(passes: Iterable[Work], costs: Prices) -> int:
    """Total compute of ``passes`` at its cheapest grouping: one launch for all experts of a layer event.

    Every expert runs once per event, on all of its tokens; the dense parts are what they are.
    """
    total = 0
    for step in passes:
        total += len(step.tokens) * (costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns)
        total += costs.lead_ns(step.rows, step.kv_tokens, step.pairs) + costs.head_ns(len(step.requests))
        for layer, tokens in enumerate(step.tokens):
            if tokens:
                ns = costs.expert_table(layer, step.rows)
                total += costs.launch_ns + sum([ns[count] for count in tokens])
    return total


def time_lower_bound_ns(compute_ns: int, floor_copy_ns: int) -> int:
    """Lower bound on the makespan: compute and copies overlap in full, neither waits for the other.

    ``compute_ns``: :func:`compute_floor_ns`. ``floor_copy_ns``: the bytes of ``belady_bypass`` at peak bandwidth
    (``Costs.link_floor_ns``). The copies counted there begin and end within the run: each is handed over after the
    start, on a link that carries one at a time, and ends before the compute that demanded its bytes.
    """
    return max(compute_ns, floor_copy_ns)
