"""What a result says of serving (``workload=online``), beside what it says of any run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, KINDS, LOOKUPS, RECALL, RESIDENT, SHARED, Accounts
from sim.results.serving.metrics import NS_PER_MS, summary
from sim.results.serving.slo import parse_slo
from sim.workload.online.feed import Serving
from sim.workload.online.ledger import ended

WHY = "with arrivals the passes depend on the policy: serving.bounds are those of the passes as they happened"


@dataclass(frozen=True, slots=True)
class OwnBounds:
    """Of the passes as they happened, which another policy would not have made."""

    nbytes: int | None
    """Bytes that no lossless policy spares on the GPU; None where the host computes experts."""
    ns: int
    compute_ns: int
    link_ns: int


def serve(result: dict[str, Any], serving: Serving, accounts: Accounts, bounds: OwnBounds | None) -> dict[str, str]:
    """Add to a result what arrivals add; returns why what is null of it is so."""
    shared, room = _shared_rates(accounts), result["memory"]["room"]
    found = _section(serving, accounts, result["config"]["workload"], bounds, room.get("kv_token_bytes", 0))
    result["hit_rate"]["shared"], result["serving"] = shared, found
    result["totals"]["idle_ns"] = accounts.idle_ns
    return _nulls(found, shared)


def _section(
    serving: Serving, accounts: Accounts, workload: Mapping[str, Any], bounds: OwnBounds | None, token_bytes: int
) -> dict[str, Any]:
    """``serving`` of a result; ``token_bytes``: of one token in the KV cache, 0 where that is unknown."""
    instances = ended(serving.ledger.served.values())
    slo = None if workload["slo"] is None else parse_slo(workload["slo"])
    block = serving.scheduler.limits.block_size * token_bytes
    found: dict[str, Any] = {
        "arrivals": serving.traffic.described(),
        **summary(instances, accounts.wall_ns, slo),
        "kv": {"peak_blocks": serving.peak_blocks, "peak_bytes": serving.peak_blocks * block if block else None},
        "passes": {
            kind: {
                "count": serving.passes[i],
                "ns": accounts.pass_ns[i],
                "stall_ns": sum(accounts.stall_row(i)),
            }
            for i, kind in enumerate(KINDS)
        },
        "idle_ns": accounts.idle_ns,
        "schedule_digest": serving.digest(),
        "bounds": None if bounds is None else _bounds(bounds, accounts),
    }
    return found


def _bounds(found: OwnBounds, accounts: Accounts) -> dict[str, Any]:
    copied = accounts.demand_bytes + accounts.speculative_bytes
    return {
        "of": "the passes as they happened",
        "belady_bypass": {"bytes": found.nbytes, "gap": copied / found.nbytes if found.nbytes else None},
        "time_lower_bound": {
            "wall_ms": found.ns / NS_PER_MS,
            "compute_ms": found.compute_ns / NS_PER_MS,
            "link_ms": found.link_ns / NS_PER_MS,
            "gap": accounts.wall_ns / found.ns if found.ns else None,
        },
    }


def _shared_rates(accounts: Accounts) -> dict[str, float | None]:
    """The four hit rates over lookups that a prompt and a decode row of one pass have in common."""
    row = accounts.hit_row(SHARED)
    lookups, demanded = row[LOOKUPS], row[BYTES_DEMANDED]
    return {
        "recall": row[RECALL] / lookups if lookups and accounts.predicts else None,
        "resident": row[RESIDENT] / lookups if lookups else None,
        "complete": row[COMPLETE] / lookups if lookups else None,
        "bytes": row[BYTES_READY] / demanded if demanded else None,
    }


def _nulls(found: Mapping[str, Any], shared: Mapping[str, float | None]) -> dict[str, str]:
    """Why what is null in a section is so."""
    why = {"bounds": WHY, "reference": WHY}
    if shared["resident"] is None:
        why["hit_rate.shared"] = "no expert was chosen by a prompt and a decode row of one pass"
    if found["bounds"] is None:
        why["serving.bounds"] = "bounds=false, or the policy is lossy"
    elif found["bounds"]["belady_bypass"]["bytes"] is None:
        why["serving.bounds.belady_bypass"] = "experts that the host computes need no copy"
    if found["goodput_per_s"] is None:
        why["serving.goodput_per_s"] = why["serving.good_share"] = "workload.slo is null"
    for name, spread in found["latency_ms"].items():
        if spread is None:
            why[f"serving.latency_ms.{name}"] = "no instance has it"
    if found["kv"]["peak_bytes"] is None:
        why["serving.kv.peak_bytes"] = "the model's shapes are not all known"
    return why
