"""A cell's hits without a clock: what ``python -m sim run`` counts, for policies that prefetch nothing, and sooner.

Hits of such a policy are a function of the demand, and of time only as far as it says who of an event's own experts has
been computed when another one of them takes a slot (sim.core.whole). So they are the simulator's, to the last one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from policies.api import Policy
from sim.core.accounts import Accounts
from sim.core.caches import Caches, alike
from sim.core.state import split_chunks
from sim.core.whole import PrefetchingError, WholeCore, whole
from sim.experiment.cell import Cell, make_signals, passes_of
from sim.machine.gpu import own_times
from sim.prices.costs import Costs
from sim.prices.hardware import policy_time
from sim.workload.pricing import expert_prices
from sim.workload.step import Pass


def accounts_of(cell: Cell, policy: Policy) -> Accounts:
    """Lookups, hits and bytes of the cell under ``policy``; nothing of time. PrefetchingError if it prefetches.

    A policy with orders, places or routings of its own, several GPUs, a disk, and a link that takes several copies at a
    time need the machine, and get it: the same figures, as slowly as ever.
    """
    if _wants_the_machine(cell, policy):
        return _on_the_machine(cell, policy)
    core = WholeCore(policy, policy.setup, make_signals(cell, policy))
    _replay(cell, core)
    return core.finish(0)


def hits_of(cell: Cell, policy: Policy, budgets: Sequence[int]) -> tuple[list[int], NDArray[np.int64]] | None:
    """The cell's lookups in prefill and in decode, and its complete hits at each of ``budgets``, [budgets, 2]; None
    where it is not so that whom ``policy`` evicts follows from gates and from who is there, whatever the budget.

    ``policy``: one that no run has. The same figures as :func:`accounts_of`, in one replay.
    """
    size, setup = cell.setup.expert_bytes, policy.setup
    if _wants_the_machine(cell, policy) or len(set(size)) > 1 or not alike(policy):
        return None
    if (orders := policy.orders(len(budgets))) is None:
        return None
    slots = [(budget - policy.gpu_bytes()) // size[0] for budget in budgets]
    core = Caches(policy, setup, make_signals(cell, policy), orders, slots)
    _replay(cell, core)
    lookups = np.array(core.lookups).reshape(2, -1).sum(axis=1).tolist()
    return lookups, core.hits().sum(axis=2)


def _wants_the_machine(cell: Cell, policy: Policy) -> bool:
    link = cell.hardware.link
    return cell.tier is not None or link.depth > 1 or link.lanes > 1 or not whole(policy)


def _replay(cell: Cell, core: WholeCore | Caches) -> None:
    setup, number = cell.setup, 0
    copy_ns = [sum(map(cell.costs.copy_ns, split_chunks(size, setup.chunks))) for size in setup.expert_bytes]
    own_ns = policy_time(cell.hardware, core.policy.name).ns()
    single = [cell.costs.expert_table(layer, 1)[1] + cell.costs.launch_ns for layer in range(setup.n_layers)]
    for requests in (cell.selection.warmup, cell.selection.measured):
        if number:
            core.measure_from(0)
        for step in passes_of(cell, requests):
            number += 1
            core.step_begin(number, step.prefill, step.requests, step.parts, 0)
            if core.speculative.heap or core.predictions:
                raise PrefetchingError(core.policy.name)
            own = own_times(own_ns[0 if step.prefill else 1], step) or repeat(0)
            for layer, demand in enumerate(step.demand):
                if demand:
                    priced = single[layer] if step.rows == 1 else partial(_prices, step, layer, cell.costs)
                    core.gate_at_once(layer, demand, step.tokens[layer], copy_ns[layer], priced, next(own))
            core.step_end(0)


def _prices(step: Pass, layer: int, costs: Costs) -> Mapping[int, int]:
    return dict(zip(step.demand[layer], expert_prices(step, layer, costs), strict=True))


def _on_the_machine(cell: Cell, policy: Policy) -> Accounts:
    from sim.experiment.run import simulate

    accounts = simulate(cell, policy).accounts
    if accounts.issued:
        raise PrefetchingError(policy.name)
    return accounts
