"""The bounds of several GPUs that hold experts of their own (docs/design.md, rule 7)."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from policies.bounds.windows import window_bytes
from sim.experiment.floor import Floor, dense_floor_ns, windows_floor_ns
from sim.prices.costs import Costs
from sim.workload.passes import Pass
from sim.workload.pricing import expert_prices


def gpus_floors(
    passes: Iterable[Pass],
    setup: Setup,
    costs: Costs,
    peer_ns: Callable[[int], int],
    budgets: Iterable[int],
    *,
    warm: bool,
) -> list[Floor]:
    """Both bounds at each of ``budgets`` (of all GPUs), for lossless policies; ``warm``: the passes follow a warm-up.

    Bytes: an expert is only ever copied to its home, and held within that GPU's part of the budget. So what is copied
    to one GPU is a run of a single one with the events that demand something of it, of which ``belady_bypass`` is the
    bound; the sum bounds what is copied to all. Time: each link needs at least its own bytes' time at its peak, the run
    as well as each window of passes, so the largest of the GPUs' bounds is one of the whole. Compute: the dense parts
    run one after the other on GPU 0, and between them a layer lasts at least as long as any GPU needs for its experts
    and for their activations' way there and back. A root that all links lie behind would only make it longer; it is
    left out, as a chunk that is under way keeps its rate when others begin.
    """
    compute, demand = list[int](), [list[list[int]]() for _ in range(setup.gpus)]
    events = [list[int]() for _ in range(setup.gpus)]
    for step in passes:
        compute.append(pass_floor_ns(step, setup, costs, peer_ns))
        for gpu in range(setup.gpus):
            own = [[x for x in layer if setup.pool_of(x) == gpu] for layer in step.demand]
            demand[gpu] += own
            events[gpu].append(sum(map(bool, own)))
    futures = [Future.of(own, setup.n_layers * setup.n_experts) for own in demand]
    ends = [list(accumulate(own)) for own in events]
    return [_floor(budget, setup, costs, compute, futures, ends, warm=warm) for budget in budgets]


def _floor(
    budget: int,
    setup: Setup,
    costs: Costs,
    compute: Sequence[int],
    futures: Sequence[Future],
    ends: Sequence[Sequence[int]],
    *,
    warm: bool,
) -> Floor:
    sizes, n, each = setup.expert_bytes, setup.n_experts, setup.pool_bytes(budget)
    nbytes = [belady_bypass_bytes(future, sizes, n, each, warm=warm) for future in futures]
    windows = max(
        windows_floor_ns(window_bytes(future, sizes, n, each, end, warm=warm), compute, costs.link_floor_ns)
        for future, end in zip(futures, ends, strict=True)
    )
    return Floor(budget, sum(nbytes), sum(compute), max(map(costs.link_floor_ns, nbytes)), windows)


def pass_floor_ns(step: Pass, setup: Setup, costs: Costs, peer_ns: Callable[[int], int]) -> int:
    """What a pass takes at least, copies apart."""
    total = dense_floor_ns(step, costs)
    for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
        work = [[0, 0] for _ in range(setup.gpus)]
        for x, count, ns in zip(demand, tokens, expert_prices(step, layer, costs), strict=True):
            own = work[setup.pool_of(x)]
            own[0] += count
            own[1] += ns
        ways = [2 * peer_ns(min(count, step.rows)) if gpu and count else 0 for gpu, (count, _) in enumerate(work)]
        total += max(way + computed for way, (_, computed) in zip(ways, work, strict=True))
    return total
