"""The bounds that no lossless policy on the GPU can beat (docs/design.md, rule 7), at any budgets of a cell."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from policies.bounds.windows import longest_cut, window_bytes
from sim.experiment.cell import Cell, passes_of
from sim.experiment.host_bound import HostBound, HostFloor
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
    with_host: HostFloor | None = None  # where experts may be computed on the host

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

    ``windows``: as in :func:`policies.bounds.windows.longest_cut`; ``compute_ns``: of each pass. A window takes at
    least its compute, which lies within its passes; and at least as long as the link needs on all of its lanes for the
    bytes that are handed over and complete within it. Where prompts wait for the link and single tokens do not, this is
    more than the longer of both sums. O(windows).
    """
    computed = [0, *accumulate(compute_ns)]
    return longest_cut(windows, lambda a, b, nbytes: max(computed[b] - computed[a], link_floor_ns(nbytes)))


def future_of(cell: Cell, *, warmup: bool = False) -> Future:
    """The demand of the measured requests; ``warmup``: and of those before them."""
    parts = [cell.selection.warmup, cell.selection.measured] if warmup else [cell.selection.measured]
    demand = (d for part in parts for p in passes_of(cell, part) for d in p.demand)
    return Future.of(demand, cell.setup.n_layers * cell.setup.n_experts)


def floors(cell: Cell, budgets: Iterable[int], future: Future | None = None, *, with_host: bool = False) -> list[Floor]:
    """The bounds at each of ``budgets`` (bytes), whatever the cell's own; ``future``: :func:`future_of` the cell.

    ``with_host``: those of policies that have the host compute experts, too, where the machine has a price for it.

    Demand and compute are read once. Between two budgets a bound lies on or below the straight line: what is drawn as a
    curve wants a fine grid. ValueError for a budget below 0.
    """
    passes, warm = passes_of(cell, cell.selection.measured), bool(cell.selection.warmup)
    found = future or future_of(cell)
    return floors_of(passes, found, cell.setup, cell.costs, budgets, warm=warm, with_host=with_host)


def floors_of(
    passes: Iterable[Pass],
    future: Future,
    setup: Setup,
    costs: Costs,
    budgets: Iterable[int],
    *,
    warm: bool,
    with_host: bool = False,
) -> list[Floor]:
    """The same of ``passes``, whose demand is ``future``; ``warm``: they follow a warm-up."""
    host = HostBound(setup, costs) if with_host and setup.host is not None else None
    compute, events = list[int](), list[int]()
    for step in passes:
        compute.append(compute_floor_ns([step], costs))
        events.append(sum(map(bool, step.demand)))
        if host is not None:
            host.add(step, compute[-1])
    ends, found = list(accumulate(events)), []
    for budget in budgets:
        nbytes = belady_bypass_bytes(future, setup.expert_bytes, setup.n_experts, budget, warm=warm)
        windows = list(window_bytes(future, setup.expert_bytes, setup.n_experts, budget, ends, warm=warm))
        by_window = windows_floor_ns(windows, compute, costs.link_floor_ns)
        beside = None if host is None else host.floor(nbytes, windows)
        found.append(Floor(budget, nbytes, sum(compute), costs.link_floor_ns(nbytes), by_window, beside))
    return found
