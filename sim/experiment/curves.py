"""Hits of caching policies at many budgets: LRU's from stack distances, all others' by one replay for each budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from policies import registry
from policies.lru import LRU
from sim.core.accounts import COMPLETE, LOOKUPS, PHASES
from sim.core.pools import state_of
from sim.core.whole import PrefetchingError
from sim.experiment.cell import Cell, Inputs, make_cell, make_policy, passes_of
from sim.experiment.clockless import accounts_of, hits_of
from sim.experiment.compose import read_config
from sim.experiment.learned import Lessons
from sim.experiment.served import closed
from sim.experiment.stack import Curve, curve_of
from sim.results.label import label
from traces.kit.errors import UserError
from traces.kit.units import parse_bytes

CACHING = ("fifo", "lfru", "lfu", "lfu_incache", "lru", "lru_copy_first", "lru_layer", "on_demand", "random", "static")
"""Presets that prefetch nothing, for who asks for another; of a policy's own parameters it may depend."""

AT_ONCE = 100
"""Budgets that are replayed together: some 40 bytes of each expert for each."""


@dataclass(frozen=True, slots=True)
class Point:
    """A policy at a budget."""

    budget: int
    hits: tuple[int, int]
    """Complete, in prefill and in decode."""
    fits: bool
    """Whether each event's demand fits its pool. Where one does not, it streams through in waves, and what is left of
    it depends on who was computed meanwhile: on the machine, and not on the policy alone."""


@dataclass(frozen=True, slots=True)
class PolicyCurve:
    """A policy at many budgets, those left out that are below the least that it takes."""

    label: str
    lookups: tuple[int, int]
    points: Sequence[Point]

    def rate(self, point: Point) -> float:
        """Hits over lookups of both phases, in %."""
        return 100 * sum(point.hits) / sum(self.lookups)


def cells_of(names: Sequence[str], words: Sequence[str]) -> list[Cell]:
    """One per policy, of the same run otherwise, which share what they read. UserError."""
    inputs, found = Inputs(keep=True), []
    for name in names:
        # Any machine has so much.
        config = read_config([f"policy={name}", "budget=1B", *words])
        closed(config, "the curve")
        found.append(make_cell(config, inputs))
    return found


def grid(cell: Cell, budgets: Sequence[str], count: int) -> list[int]:
    """Those asked for in bytes, or ``count`` of them, evenly spaced up to all experts, whole experts where these are of
    one size. UserError for a word that is none."""
    total, size = cell.total_expert_bytes, cell.setup.expert_bytes
    unit = size[0] if len(set(size)) == 1 else 1
    if budgets:
        return sorted({parse_bytes(word, of=total) for word in budgets})
    return sorted({total // unit * k // count * unit or unit for k in range(1, count + 1)})


def curve(cell: Cell, budgets: Sequence[int]) -> PolicyCurve:
    """The cell's policy at each of ``budgets`` (bytes). UserError for a policy that prefetches."""
    largest, given = largest_events(cell), label(registry.normal(cell.config.policy))
    at = [replace(cell, setup=replace(cell.setup, budget=budget)) for budget in budgets]
    least, stacked = _least(cell), _stacked(at[-1])
    at = [it for it in at if it.setup.budget >= least]
    if not at:
        raise UserError(f"budget={budgets[-1]}: too small for policy={given}; allowed: at least {least} bytes")
    points, lookups = list[Point](), [0, 0]
    try:
        together = _together(at)
        for it in at:
            policy = make_policy(it, recall=Lessons(it))
            state = state_of(policy.setup, it.setup.budget - policy.gpu_bytes(), policy)
            shares = state.layer_capacity or [state.capacity // it.setup.gpus] * len(largest)
            fits = len(shares) == len(largest) and all(map(int.__le__, largest, shares))
            slots = it.setup.budget // it.setup.expert_bytes[0]
            if stacked is not None and slots >= stacked.least:
                lookups, hits = list(stacked.lookups), stacked.hits[:, min(slots, stacked.hits.shape[1] - 1)].tolist()
            elif it.setup.budget in together:
                lookups, hits = together[it.setup.budget]
            else:
                accounts = accounts_of(it, policy)
                rows = accounts.hit_row(0), accounts.hit_row(1)
                lookups, hits = [row[LOOKUPS] for row in rows], [row[COMPLETE] for row in rows]
            points.append(Point(it.setup.budget, (hits[0], hits[1]), fits))
    except PrefetchingError:
        raise _prefetches(given) from None
    return PolicyCurve(given, (lookups[0], lookups[1]), points)


def largest_events(cell: Cell) -> list[int]:
    """Bytes of the largest demand of each layer, [L]."""
    most = [0] * cell.setup.n_layers
    for requests in (cell.selection.warmup, cell.selection.measured):
        for step in passes_of(cell, requests):
            most = list(map(max, most, map(len, step.demand)))
    return [n * size for n, size in zip(most, cell.setup.expert_bytes, strict=True)]


def document(cell: Cell, curves: Sequence[PolicyCurve]) -> dict[str, Any]:
    """The curves as JSON."""
    return {
        "trace": cell.trace.sha256,
        "recording": cell.trace.manifest.recording,
        "room_bytes": cell.room.bytes,
        "policies": [
            {
                "policy": it.label,
                "lookups": dict(zip(PHASES, it.lookups, strict=True)),
                "budget_bytes": [point.budget for point in it.points],
                "complete_hits": {phase: [point.hits[i] for point in it.points] for i, phase in enumerate(PHASES)},
                "fits": [point.fits for point in it.points],
            }
            for it in curves
        ],
    }


def _least(cell: Cell) -> int:
    """The least budget that the cell's policy takes, asked of one with room for everything, which learns nothing."""
    setup = replace(cell.setup, budget=max(cell.total_expert_bytes, cell.setup.budget) * max(2, cell.setup.gpus))
    params = {key: value for key, value in cell.config.policy.items() if key != "name"}
    return registry.build(str(cell.config.policy["name"]), setup, params).min_budget()


def _together(at: Sequence[Cell]) -> dict[int, tuple[list[int], list[int]]]:
    """Lookups and hits by budget, of a policy that needs one replay for all; else nothing."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for first in range(0, len(at), AT_ONCE):
        budgets = [it.setup.budget for it in at[first : first + AT_ONCE]]
        replayed = hits_of(at[-1], make_policy(at[-1], recall=Lessons(at[-1])), budgets)
        if replayed is None:
            return {}
        lookups, hits = replayed
        found.update({budget: (lookups, row) for budget, row in zip(budgets, hits.tolist(), strict=True)})
    return found


def _stacked(cell: Cell) -> Curve | None:
    """All budgets of LRU at once, where that is what the cell's policy is."""
    alone = cell.setup.gpus == 1 and len(set(cell.setup.expert_bytes)) == 1
    if not alone or registry.find(str(cell.config.policy["name"])) is not LRU:
        return None
    policy = make_policy(cell)
    return None if not isinstance(policy, LRU) or policy.by_layer else curve_of(cell)


def _prefetches(given: str) -> UserError:
    allowed = f"what only admits and evicts, as {', '.join(CACHING)}"
    return UserError(f"policy={given}: prefetches, and its hits depend on time; allowed: {allowed}")
