"""What a person reads of serving, below a run's row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from traces.kit.units import counted, figure

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {"queueing": "queueing", "itl": "ITL", "itl_beside_prefill": "ITL beside prompts"}


def setting(workload: Mapping[str, Any]) -> str:
    """How requests come, in a few words: ``batch 4``, or ``poisson arrivals, 2/s, fcfs``."""
    batch = [f"batch {workload['batch']}"] if "batch" in workload else []
    return ", ".join(filter(None, [*batch, served(workload)]))


def served(workload: Mapping[str, Any]) -> str:
    """The same but for the batch; "" where there is no more to say."""
    if workload["name"] != "online":
        chunk, order = workload.get("prefill_chunk"), workload.get("prefill_order", "chunk_major")
        words = [f"prompts in chunks of {chunk}"] if chunk is not None else []
        words += ["prompts layer by layer"] if order == "layer_major" else []
        return ", ".join(words)
    rate = "" if workload["rate"] is None else f", {float(workload['rate']):g}/s"
    order = ", prompts layer by layer" if workload.get("prefill_order") == "layer_major" else ""
    return f"{workload['arrivals']} arrivals{rate}, {workload['discipline']}{order}"


def setting_of(row: Mapping[str, Any] | pd.Series[Any]) -> str:
    """As :func:`setting`, of a row of ``sim.load``, in which what is not there is of no type of its own."""
    workload: dict[str, Any] = {"name": row["workload"]}
    if isinstance(row["served"], str):
        workload |= json.loads(row["served"])
    if row["workload"] != "online":
        return setting({**workload, "batch": row["batch"]})
    return setting({**workload, "rate": row["rate_per_s"] if row["rate_per_s"] > 0 else None})


def kv_share(result: Mapping[str, Any]) -> float | None:
    """Of the room for experts and KV cache the latter's part, where its size was given."""
    nbytes = result["config"].get("kv_bytes")
    if nbytes is None:
        return None
    room = result["memory"]["room"]
    return float(nbytes / (room["gpu_bytes"] - room["dense_bytes"] - room["head_bytes"]))


def who(result: Mapping[str, Any]) -> str:
    """Which requests were measured: ``48 requests (the test split)``, ``60 arrivals of 48 requests (...)``."""
    which, found = result["provenance"]["measured_requests"], result.get("serving")
    if found is None:
        return f"{counted(result['totals']['requests'], 'request')} ({which})"
    seen = found["arrivals"]
    most = seen["replays"]["most"]
    again = "" if most == 1 else f", each up to {most} times"
    return f"{counted(seen['arrivals'], 'arrival')} of {counted(seen['requests'], 'request')} ({which}){again}"


def headline(result: Mapping[str, Any]) -> str:
    """What a user of a server wants to know first: mean TTFT and TPOT, and how many requests a second are served."""
    found = result["serving"]
    means = {"TTFT": found["latency_ms"]["ttft"], "TPOT": found["latency_ms"]["tpot"]}
    said = [f"{name} {figure(it['mean'])} ms" for name, it in means.items() if it is not None]
    good, slo = found["goodput_per_s"], result["config"]["workload"]["slo"]
    kept = "" if good is None else f", {figure(good)} within {slo}"
    return f"{', '.join(said)}; {figure(found['requests_per_s'])} requests/s{kept}"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Nothing in a closed loop."""
    found = result.get("serving")
    if found is None:
        return
    spreads = [(name, found["latency_ms"][key]) for key, name in SHOWN.items()]
    parts = [f"{name} {figure(it['mean'])} (p99 {figure(it['p99'])})" for name, it in spreads if it is not None]
    yield f"ms: {', '.join(parts)}"
    wall, most = result["totals"]["wall_ns"], found["concurrency"]
    yield f"in the system: {figure(most['mean'])} requests on average, at most {most['peak']}"
    kinds = {kind: it["ns"] for kind, it in found["passes"].items() if it["count"]} | {"idle": found["idle_ns"]}
    shares = [f"{kind} {100 * ns / wall:.1f}" for kind, ns in kinds.items()] if wall else []
    busy = f"; the GPU computes {100 * result['totals']['compute_ns'] / wall:.1f}" if wall else ""
    yield f"% of the time by kind of pass: {', '.join(shares)}{busy}"
    if found["preemptions"]:
        yield f"{counted(found['preemptions'], 'preemption')}: {found['recomputed_tokens']:,} tokens computed again"
    if (bounds := found["bounds"]) is not None:
        gaps = {"time": bounds["time_lower_bound"]["gap"], "bytes": bounds["belady_bypass"]["gap"]}
        idle = ", idle time included" if found["idle_ns"] else ""
        told = [f"{name} {gap:.2f}x" for name, gap in gaps.items() if gap is not None]
        yield f"of the bounds of {bounds['of']}: {', '.join(told) or '-'}{idle}"


def unranked(result: Mapping[str, Any]) -> str:
    """Why a run is not ranked; "" if it is."""
    found = result["provenance"].get("memorised")
    if found is None:
        return ""
    return (
        f"not ranked: the policy remembers requests, and each arrived up to {found['replays']} times, so that it knew"
        " what it was asked"
    )
