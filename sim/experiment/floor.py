"""What both bounds are made of: compute that nobody is spared, and windows of passes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from policies.bounds.windows import longest_cut
from sim.experiment.disk_bound import DiskFloor
from sim.experiment.host_bound import HostFloor
from sim.prices.costs import Costs
from sim.workload.passes import Pass
from sim.workload.pricing import dense_of, expert_prices


@dataclass(frozen=True, slots=True)
class Floor:
    """Both bounds of the measured window at one budget."""

    budget_bytes: int
    nbytes: int  # belady_bypass: the fewest bytes copied
    compute_ns: int  # of time_lower_bound: all compute
    link_ns: int  # of time_lower_bound: the fewest bytes at the link's peak, of all its lanes
    windows_ns: int = 0  # of time_lower_bound: the longer of both, window of passes by window
    with_host: HostFloor | None = None  # where experts may be computed on the host
    disk: DiskFloor | None = None  # of time_lower_bound: what is read at least, where the host does not hold all

    @property
    def ns(self) -> int:
        """``time_lower_bound``: the shortest makespan. Compute and copies overlap in full, neither waits for the other.

        The copies counted begin and end within the run: each is handed over after the start, on a link that carries one
        at a time on each lane, and ends before the compute that demanded its bytes. So the lanes are busy for at least
        the sum of their durations, which is at least the bytes at one lane's peak, within lanes x the makespan. A disk
        (:func:`sim.experiment.disk_bound.disk_floor`) is one more resource of the same kind.
        """
        return max(self.compute_ns, self.link_ns, self.windows_ns, self.disk.ns if self.disk is not None else 0)


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
                total += sum(expert_prices(step, layer, costs))
    return total


def dense_floor_ns(step: Pass, costs: Costs) -> int:
    """What a pass takes without any expert."""
    dense = dense_of(step, costs)
    return len(step.tokens) * (dense.layer_ns + dense.software_ns) + dense.lead_ns + dense.head_ns


def windows_floor_ns(
    windows: Iterable[Sequence[tuple[int, int]]], compute_ns: Sequence[int], link_floor_ns: Callable[[int], int]
) -> int:
    """The best that a partition of the run into windows of passes shows of its makespan, in ns.

    ``windows``: as in :func:`policies.bounds.windows.longest_cut`; ``compute_ns``: of each pass. A window takes at
    least its compute, which lies within its passes; and at least as long as the link needs on all of its lanes for the
    bytes that are handed over and complete within it. Where prompts wait for the link and single tokens do not, this is
    more than the longer of both sums. O(windows).
    """
    computed = [0, *accumulate(compute_ns)]
    return longest_cut(windows, lambda a, b, nbytes: max(computed[b] - computed[a], link_floor_ns(nbytes)))
