"""The bounds that no lossless policy on the GPU can beat (docs/design.md, rule 7), at any budgets of a cell."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from policies.bounds.windows import window_bytes
from sim.experiment.cell import Cell, passes_of
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
        total += len(step.tokens) * (costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns)
        total += costs.lead_ns(step.rows, step.kv_tokens, step.pairs) + costs.head_ns(len(step.requests))
        for layer, tokens in enumerate(step.tokens):
            if tokens:
                ns = costs.expert_table(layer, step.rows)
                total += sum([ns[count] + costs.launch_ns for count in tokens])
    return total


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


def future_of(cell: Cell, *, warmup: bool = False) -> Future:
    """The demand of the measured requests; ``warmup``: and of those before them."""
    parts = [cell.selection.warmup, cell.selection.measured] if warmup else [cell.selection.measured]
    demand = (d for part in parts for p in passes_of(cell, part) for d in p.demand)
    return Future.of(demand, cell.setup.n_layers * cell.setup.n_experts)


def floors(cell: Cell, budgets: Iterable[int], future: Future | None = None) -> list[Floor]:
    """The bounds at each of ``budgets`` (bytes), whatever the cell's own; ``future``: :func:`future_of` the cell.

    Demand and compute are read once. Between two budgets a bound lies on or below the straight line: what is drawn as a
    curve wants a fine grid. ValueError for a budget below 0.
    """
    passes, warm = passes_of(cell, cell.selection.measured), bool(cell.selection.warmup)
    return floors_of(passes, future or future_of(cell), cell.setup, cell.costs, budgets, warm=warm)


def floors_of(
    passes: Iterable[Pass], future: Future, setup: Setup, costs: Costs, budgets: Iterable[int], *, warm: bool
) -> list[Floor]:
    """The same of ``passes``, whose demand is ``future``; ``warm``: they follow a warm-up."""
    compute, events = list[int](), list[int]()
    for step in passes:
        compute.append(compute_floor_ns([step], costs))
        events.append(sum(map(bool, step.demand)))
    ends, found = list(accumulate(events)), []
    for budget in budgets:
        nbytes = belady_bypass_bytes(future, setup.expert_bytes, setup.n_experts, budget, warm=warm)
        windows = window_bytes(future, setup.expert_bytes, setup.n_experts, budget, ends, warm=warm)
        by_window = windows_floor_ns(windows, compute, costs.link_floor_ns)
        found.append(Floor(budget, nbytes, sum(compute), costs.link_floor_ns(nbytes), by_window))
    return found
