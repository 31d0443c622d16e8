"""What a policy has computed in the place of what the gate chose: checked, and its damage counted (rules 5 and 8)."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.api import LayerEvent, Routing
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RECALL, RESIDENT, SLOTS, UNSTATED
from sim.core.state import CoreError, State, whole

if TYPE_CHECKING:
    from sim.core.core import Core

ROUTED = -(1 << 62)
"""In the digest, before a routing: no other answer is as low."""

_ROUNDING = 1 + 1e-6


def reroute(core: Core, routing: Routing | None) -> list[int]:
    """Put ``routing`` in the place of the event's demand; returns what the digest is to hold of it.

    CoreError for experts that the layer does not have, and for what a lossless policy may not do.
    """
    event, quality = core.event, core.accounts.quality[core.phase]
    if routing is None:
        if not core.policy.lossless:
            quality[SLOTS] += sum(event.tokens)
            quality[UNSTATED] += 1
        return []
    demand, tokens = whole(routing.demand), whole(routing.tokens)
    problem = _unfit(core, demand, tokens) or _unfounded(routing)
    if not problem and core.policy.lossless:
        problem = _lossy(event, routing, demand, tokens)
    if not problem and routing.chosen is not None:
        problem = _mischosen(core, routing.chosen, demand, tokens)
    if problem:
        raise CoreError(f"policy {core.policy.name} routes layer {event.layer} to {problem}")
    masses = float(routing.kept_mass), float(routing.gate_mass)
    counts = whole((routing.slots, routing.substituted, routing.skipped, routing.low_precision))
    for i, amount in enumerate((*masses, *counts)):
        quality[i] += amount
    event.demand, event.tokens = demand, tokens
    return [ROUTED, len(demand), *demand, *tokens]


def discount(row: list[int], event: LayerEvent, state: State, foretold: set[int] | None) -> None:
    """Take the experts without tokens, which are no lookups, out of a hit row."""
    first = event.layer * (state.chunks + 1)
    for x, n in zip(event.demand, event.tokens, strict=True):
        if not n:
            row[LOOKUPS] -= 1
            row[BYTES_READY] -= state.arrived_bytes[first + state.done[x]]
            row[BYTES_DEMANDED] -= state.size[x]
            row[RECALL] -= foretold is not None and x in foretold
            row[RESIDENT] -= state.slot[x]
            row[COMPLETE] -= state.done[x] == state.chunks


def _unfit(core: Core, demand: list[int], tokens: list[int]) -> str | None:
    first, rows = core.event.layer * core.setup.n_experts, core.step.rows
    if len(demand) != len(tokens):
        return f"{len(demand)} experts, with tokens for {len(tokens)}"
    if len(set(demand)) != len(demand):
        return f"an expert twice: {demand}"
    if strangers := [x for x in demand if not first <= x < first + core.setup.n_experts]:
        return f"experts of another layer: {strangers}"
    if wrong := [n for n in tokens if not 0 <= n <= rows]:
        return f"experts with {wrong} tokens; the step has {rows}"
    return None


def _unfounded(routing: Routing) -> str | None:
    if not (isfinite(routing.gate_mass) and 0 <= routing.kept_mass <= _ROUNDING * routing.gate_mass):
        return f"a kept mass of {routing.kept_mass} of {routing.gate_mass}"
    counts = whole((routing.substituted, routing.skipped, routing.low_precision))
    return None if min(counts) >= 0 and max(counts) <= routing.slots else f"{counts} of {routing.slots} slots"


def _lossy(event: LayerEvent, routing: Routing, demand: list[int], tokens: list[int]) -> str | None:
    recorded = dict(zip(event.demand, event.tokens, strict=True))
    if {x: n for x, n in zip(demand, tokens, strict=True) if n} != recorded:
        return f"other experts than the gate did, and is lossless: {demand} with {tokens} tokens, for {recorded}"
    if routing.chosen is not None:
        return "tokens of its own choice, and is lossless"
    counts = routing.substituted, routing.skipped, routing.low_precision
    return f"a loss, and is lossless: {counts} of {routing.slots} slots" if any(counts) else None


def _mischosen(core: Core, chosen: tuple[Any, Any], demand: list[int], tokens: list[int]) -> str | None:
    """What a real machine would compute must be what is demanded, priced and counted."""
    ids, weights = (np.asarray(part) for part in chosen)
    rows, E = core.step.rows, core.setup.n_experts
    if ids.dtype != np.int64 or weights.dtype != np.float32 or ids.shape != weights.shape or ids.ndim != 2:
        kinds = f"{ids.dtype} {ids.shape} and {weights.dtype} {weights.shape}"
        return f"a choice of {kinds}; int64 and float32 [rows, K'] are wanted"
    if len(ids) != rows or ids.min(initial=0) < 0 or ids.max(initial=0) > E:
        return f"a choice of {len(ids)} rows, with experts {ids.min(initial=0)} to {ids.max(initial=0)}; {rows} rows"
    in_order = np.sort(ids, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] < E)).any():
        return "an expert twice for one token"
    if not np.isfinite(weights).all():
        return "a weight that is not finite"
    first = core.event.layer * E
    counts = np.bincount(ids.ravel(), minlength=E + 1)[:E].tolist()
    stated = {x - first: n for x, n in zip(demand, tokens, strict=True) if n}
    found = {x: n for x, n in enumerate(counts) if n}
    return None if found == stated else f"experts with {stated} tokens, and chooses {found}"
