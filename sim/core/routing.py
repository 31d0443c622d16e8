"""What a policy has computed in the place of what the gate chose: checked, and its damage counted (rules 5 and 8)."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

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
    counts = routing.substituted, routing.skipped, routing.low_precision
    return f"a loss, and is lossless: {counts} of {routing.slots} slots" if any(counts) else None
