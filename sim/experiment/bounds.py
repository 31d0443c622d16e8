"""The bounds that no lossless policy on the GPU can beat (docs/design.md, rule 7), at any budgets of a cell."""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from sim.experiment.cell import Cell, passes_of
from sim.prices.costs import Costs
from sim.workload.passes import Pass


@dataclass(frozen=True, slots=True)
class Floor:
    """Both bounds of the measured window at one budget."""

    budget_bytes: int
    nbytes: int  # belady_bypass: the fewest bytes copied
    compute_ns: int  # of time_lower_bound: all compute at its cheapest grouping
    link_ns: int  # of time_lower_bound: the fewest bytes at the link's peak, of all its lanes

    @property
    def ns(self) -> int:
        """``time_lower_bound``: the shortest makespan. Compute and copies overlap in full, neither waits for the other.

        The copies counted begin and end within the run: each is handed over after the start, on a link that carries one
        at a time on each lane, and ends before the compute that demanded its bytes. So the lanes are busy for at least
        the sum of their durations, which is at least the bytes at one lane's peak, within lanes x the makespan.
        """
        return max(self.compute_ns, self.link_ns)


def compute_floor_ns(passes: Iterable[Pass], costs: Costs) -> int:
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


def future_of(cell: Cell, *, warmup: bool = False) -> Future:
    """The demand of the measured requests; ``warmup``: and of those before them."""
    parts = [cell.selection.warmup, cell.selection.measured] if warmup else [cell.selection.measured]
    demand = (d for part in parts for p in passes_of(cell, part) for d in p.demand)
    return Future.of(demand, cell.setup.n_layers * cell.setup.n_experts)


def floors(cell: Cell, budgets: Iterable[int], future: Future | None = None) -> list[Floor]:
    """The bounds at each of ``budgets`` (bytes), whatever the cell's own; ``future``: :func:`future_of` the cell.

    Demand and compute are read once. Between two budgets a bound lies on or below the straight line, far below it where
    the link gives way to compute: what is drawn as a curve wants a fine grid. ValueError for a budget below 0.
    """
    setup, costs, warm = cell.setup, cell.costs, bool(cell.selection.warmup)
    future = future or future_of(cell)
    compute = compute_floor_ns(passes_of(cell, cell.selection.measured), costs)
    found = []
    for budget in budgets:
        nbytes = belady_bypass_bytes(future, setup.expert_bytes, setup.n_experts, budget, warm=warm)
        found.append(Floor(budget, nbytes, compute, costs.link_floor_ns(nbytes)))
    return found
