"""What both bounds are made of: compute that nobody is spared, and windows of passes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sim.prices.costs import Costs
from sim.workload.passes import Pass


@dataclass(frozen=True, slots=True)
class Floor:
    """Both bounds of the measured window at one budget."""

    budget_bytes: int
    nbytes: int  # belady_bypass: the fewest bytes copied
    compute_ns: int  # of time_lower_bound: all compute
    link_ns: int  # of time_lower_bound: the fewest bytes at the link's peak, of all its lanes
    windows_ns: int = 0  # of time_lower_bound: the longer of both, window of passes by window

    @property
    def ns(self) -> int:
        """``time_lower_bound``: the shortest makespan. Compute and copies overlap in full, neither waits for the other.

        The copies counted begin and end within the run: each is handed over after the start, on a link that carries one
        at a time on each lane, and ends before the compute that demanded its bytes. So the lanes are busy for at least
        the sum of their durations, which is at least the bytes at one lane's peak, within lanes x the makespan.
        """
        return max(self.compute_ns, self.link_ns, self.windows_ns)


def compute_floor_ns(passes: Iterable[Pass], costs: Costs) -> int:
    """Total compute of ``passes``: that of any lossless policy on the GPU, but for what it may be charged itself.

    Every expert runs once per event, on all of its tokens, with a launch of its own, since the machine's prices know no
    launch of several; the dense parts are what they are.
    """
    total = 0
    for step in passes:
        total += dense_floor_ns(step, costs)
        for layer, tokens in enumerate(step.tokens):
            if tokens:
                ns = costs.expert_table(layer, step.rows)
                total += sum([ns[count] + costs.launch_ns for count in tokens])
    return total


def dense_floor_ns(step: Pass, costs: Costs) -> int:
    """What a pass takes without any expert."""
    per_layer = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns
    return (
        len(step.tokens) * per_layer
        + costs.lead_ns(step.rows, step.kv_tokens, step.pairs)
        + costs.head_ns(len(step.requests))
    )


def windows_floor_ns(
    windows: Iterable[Sequence[tuple[int, int]]], compute_ns: Sequence[int], link_floor_ns: Callable[[int], int]
) -> int:
    """The best that a partition of the run into windows of passes shows of its makespan, in ns.

    ``windows``: per pass those that end with it, as (first pass, bytes that must be copied within it)
    (:func:`policies.bounds.windows.window_bytes`); ``compute_ns``: of each pass. A pass begins when the one before has
    ended, so the makespan is the sum of the times of the windows of any partition. Each takes at least its compute,
    which lies within its passes; and at least as long as the link needs on all of its lanes for the
    bytes that are handed over and complete within it. Where prompts wait for the link and single tokens do not, this is
    more than the longer of both sums. O(windows).
    """
    best, computed = [0], [0]  # of the passes so far
    for ending, ns in zip(windows, compute_ns, strict=True):
        computed.append(computed[-1] + ns)
        found = best[-1] + ns
        for first, nbytes in ending:
            found = max(found, best[first] + max(computed[-1] - computed[first], link_floor_ns(nbytes)))
        best.append(found)
    return best[-1]
