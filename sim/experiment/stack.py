"""LRU's hits at every budget at once, from one pass over the demand.

LRU keeps the most recent experts, so an expert hits exactly when fewer others than there are slots were demanded since
its last demand (R. Mattson et al., Evaluation techniques for storage hierarchies, IBM Systems Journal 9(2), 1970).
Layer events being atomic, all members of an event are looked up before any of them counts as recent, and enter in
token order. That is what the simulator does, hit for hit, where

* the policy is ``lru`` with ``scope=global``: one list, on-demand copies only;
* all experts are of one size, so that a budget is a number of slots;
* no event demands more experts than there are slots: beyond, demand streams through in waves, and what is left depends
  on the order of computing. The curve begins at the largest event; below, ask the simulator.

Batches, warm-up and chunks change nothing of this. Latency is not on the curve: it wants the simulator.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.experiment.cell import Cell, make_policy, passes_of
from traces.kit.errors import UserError


@dataclass(frozen=True, slots=True)
class Curve:
    """Hits by number of slots."""

    lookups: tuple[int, int]  # in prefill and in decode
    hits: NDArray[np.int64]
    """[2, n + 1]: complete hits in prefill and decode with 0..n slots, n being all experts."""
    least: int  # members of the largest event: fewer slots are not on the curve


def curve_of(cell: Cell) -> Curve:
    """The curve of a cell whose policy is LRU; its budget is of no account. UserError where it would not be exact.

    Stack distances of the demand, in O(n log n) per layer event of the n experts of all layers.
    """
    policy, n_experts = make_policy(cell), cell.setup.n_layers * cell.setup.n_experts
    if policy.name != "lru" or getattr(policy, "by_layer", True):
        raise UserError(f"policy={cell.config.policy['name']}: the curve is LRU's; allowed: lru with scope=global")
    if cell.setup.gpus > 1:
        raise UserError(f"hardware.gpus={cell.setup.gpus}: the curve is of one memory; allowed: 1")
    if len(set(cell.setup.expert_bytes)) > 1:
        raise UserError(f"model={cell.model.name}: experts of several sizes; the curve is exact for one size only")
    last = np.full(n_experts, -1, np.int64)  # when an expert was last demanded
    counts = np.zeros((2, n_experts + 1), np.int64)
    lookups, least, clock = [0, 0], 1, 0
    for counted, requests in enumerate((cell.selection.warmup, cell.selection.measured)):
        for step in passes_of(cell, requests):
            phase = 0 if step.prefill else 1
            for demand in step.demand:
                if not demand:
                    continue
                members = np.asarray(demand)
                least = max(least, len(demand))
                if counted:
                    lookups[phase] += len(demand)
                    seen = last[members]
                    # Slots that it takes to hit: itself, and all that were demanded since.
                    needed = n_experts - np.searchsorted(np.sort(last), seen[seen >= 0])
                    counts[phase] += np.bincount(needed, minlength=n_experts + 1)
                last[members] = np.arange(clock, clock + len(demand))
                clock += len(demand)
    return Curve((lookups[0], lookups[1]), counts.cumsum(axis=1), least)
