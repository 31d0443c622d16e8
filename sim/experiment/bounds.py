"""The bounds that no lossless policy on the GPU can beat (docs/design.md, rule 7), at any budgets of a cell."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from policies.bounds.windows import window_bytes
from sim.experiment.cell import Cell, passes_of
from sim.experiment.disk_bound import DiskFloor, disk_floor
from sim.experiment.floor import Floor as Floor
from sim.experiment.floor import compute_floor_ns as compute_floor_ns
from sim.experiment.floor import windows_floor_ns as windows_floor_ns
from sim.experiment.gpus_bound import gpus_floors
from sim.experiment.host_bound import HostBound
from sim.experiment.host_memory import reads_of
from sim.prices.costs import Costs
from sim.results.serving.section import OwnBounds
from sim.workload.online.feed import Serving
from sim.workload.passes import Pass
from sim.workload.pricing import reduced_ns


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
    setup, costs = cell.setup, cell.costs
    if setup.gpus > 1:
        return gpus_floors(passes, setup, costs, costs.peers.ns, budgets, warm=warm)
    found, event_ns = future or future_of(cell), costs.peers.all_reduce_ns
    with_host = with_host and cell.tier is None
    made = floors_of(passes, found, setup, costs, budgets, warm=warm, with_host=with_host, event_ns=event_ns)
    return (
        made if cell.tier is None else [replace(floor, disk=_disk(cell, floor.budget_bytes, found)) for floor in made]
    )


def _disk(cell: Cell, budget: int, future: Future) -> DiskFloor:
    assert cell.tier is not None
    setup, reads = replace(cell.setup, budget=budget), reads_of(cell.hardware, cell.costs, cell.setup, cell.tier)
    return disk_floor(future, setup, cell.tier.capacity, reads, warm=bool(cell.selection.warmup))


def floors_of(
    passes: Iterable[Pass],
    future: Future,
    setup: Setup,
    costs: Costs,
    budgets: Iterable[int],
    *,
    warm: bool,
    with_host: bool = False,
    event_ns: Callable[[int], int] | None = None,
) -> list[Floor]:
    """The same of ``passes``, whose demand is ``future``; ``warm``: they follow a warm-up.

    ``event_ns``: what each layer event takes at its end, by the rows of its pass.
    """
    host = HostBound(setup, costs) if with_host and setup.host is not None else None
    compute, events = list[int](), list[int]()
    for step in passes:
        events.append(sum(map(bool, step.demand)))
        compute.append(compute_floor_ns([step], costs) + (events[-1] * reduced_ns(step, event_ns) if event_ns else 0))
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


def own_bounds(cell: Cell, serving: Serving, *, hosted: bool) -> OwnBounds:
    """What no lossless policy can beat in the very passes that this run made (docs/design.md, rule 7).

    The bounds of a closed loop, whose proofs ask nothing of where passes come from, nor of what lies between them: a
    window of passes ends where the next begins, and idle time in it only makes it longer. Another policy makes other
    passes, so that they bound this run alone. ``hosted``: whether the host may compute experts.
    """
    setup, costs, warm = cell.setup, cell.costs, bool(cell.selection.warmup)
    if setup.gpus > 1:
        (floor,) = gpus_floors(serving.passes_again(), setup, costs, costs.peers.ns, [setup.budget], warm=warm)
    else:
        future = Future.of(
            (d for step in serving.passes_again() for d in step.demand), setup.n_layers * setup.n_experts
        )
        reduce_ns = costs.peers.all_reduce_ns
        (floor,) = floors_of(
            serving.passes_again(),
            future,
            setup,
            costs,
            [setup.budget],
            warm=warm,
            with_host=hosted and cell.tier is None,
            event_ns=reduce_ns,
        )
        if cell.tier is not None:
            floor = replace(floor, disk=_disk(cell, setup.budget, future))
    if hosted and floor.with_host is not None:
        whole = floor.with_host.whole
        return OwnBounds(None, floor.with_host.ns, whole.compute_ns, whole.link_ns)
    return OwnBounds(floor.nbytes, floor.ns, floor.compute_ns, floor.link_ns)
