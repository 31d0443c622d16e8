"""What a policy has computed in the place of what the gate chose: checked, and its damage counted (rules 5 and 8)."""

from math import isfinite
from typing import Any

import numpy as np

from policies.api import LayerEvent, Policy, Routing, Setup
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RECALL, RESIDENT, SLOTS, UNSTATED
from sim.core.state import CoreError, State, whole

ROUTED = -(1 << 62)
"""In the digest, before a routing: no other answer is as low."""

_ROUNDING = 1 + 1e-6


def reroute(routing: Routing | None, event: LayerEvent, policy: Policy, quality: list[float]) -> list[int]:
    """Put ``routing`` in the place of the event's demand; returns what the digest is to hold of it.

    ``quality``: the phase's sums, to which its damage is added. CoreError for experts that the layer does not have, and
    for what a lossless policy may not do.
    """
    if routing is None:
        if not policy.lossless:
            quality[SLOTS] += sum(event.tokens)
            quality[UNSTATED] += 1
        return []
    setup = policy.setup
    demand, tokens, n_experts = whole(routing.demand), whole(routing.tokens), setup.n_experts
    experts = [setup.expert_of(x) for x in demand] if setup.versions else demand
    problem = _unfit(event, n_experts, experts, tokens) or _unfounded(routing)
    if not problem and setup.versions:
        problem = _misversioned(routing, demand, tokens, setup)
    if not problem and policy.lossless:
        problem = _lossy(event, routing, demand, tokens)
    if not problem and routing.chosen is not None:
        problem = _mischosen(event, n_experts, routing.chosen, experts, tokens)
    if problem:
        raise CoreError(f"policy {policy.name} routes layer {event.layer} to {problem}")
    masses = float(routing.kept_mass), float(routing.gate_mass)
    counts = whole((routing.slots, routing.substituted, routing.skipped, routing.low_precision))
    for i, amount in enumerate((*masses, *counts)):
        quality[i] += amount
    event.demand, event.tokens = demand, tokens
    return [ROUTED, len(demand), *demand, *tokens]


def discount(row: list[int], event: LayerEvent, state: State, foretold: set[int] | None) -> None:
    """Take the experts without tokens, which are no lookups, out of a hit row."""
    for x, n in zip(event.demand, event.tokens, strict=True):
        if not n:
            row[LOOKUPS] -= 1
            row[BYTES_READY] -= state.arrived_bytes[x // state.n_experts * (state.chunks + 1) + state.done[x]]
            row[BYTES_DEMANDED] -= state.size[x]
            row[RECALL] -= foretold is not None and x in foretold
            row[RESIDENT] -= state.slot[x]
            row[COMPLETE] -= state.done[x] == state.chunks


def _unfit(event: LayerEvent, n_experts: int, demand: list[int], tokens: list[int]) -> str | None:
    first, rows = event.layer * n_experts, sum(event.counts)
    if len(demand) != len(tokens):
        return f"{len(demand)} experts, with tokens for {len(tokens)}"
    if len(set(demand)) != len(demand):
        return f"an expert twice: {demand}"
    if strangers := [x for x in demand if not first <= x < first + n_experts]:
        return f"experts of another layer: {strangers}"
    if wrong := [n for n in tokens if not 0 <= n <= rows]:
        return f"experts with {wrong} tokens; the step has {rows}"
    return None


def _misversioned(routing: Routing, demand: list[int], tokens: list[int], setup: Setup) -> str | None:
    """What is stated must be what is computed."""
    if strangers := [x for x in demand if not 0 <= x < setup.n_all * len(setup.versions)]:
        return f"versions that there are not: {strangers}"
    low = sum(n for x, n in zip(demand, tokens, strict=True) if x >= setup.n_all)
    if low != routing.low_precision:
        return f"{low} tokens in a lower precision, and states {routing.low_precision}"
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


def _mischosen(event: LayerEvent, E: int, chosen: tuple[Any, Any], demand: list[int], tokens: list[int]) -> str | None:
    """What a real machine would compute must be what is demanded, priced and counted."""
    ids, weights = (np.asarray(part) for part in chosen)
    rows = sum(event.counts)
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
    first = event.layer * E
    counts = np.bincount(ids.ravel(), minlength=E + 1)[:E].tolist()
    stated = {x - first: n for x, n in zip(demand, tokens, strict=True) if n}
    found = {x: n for x, n in enumerate(counts) if n}
    return None if found == stated else f"experts with {stated} tokens, and chooses {found}"
