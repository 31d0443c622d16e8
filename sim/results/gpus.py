"""What a result says of several GPUs: of each, and how unevenly they were burdened."""

from collections.abc import Mapping, Sequence
from typing import Any

from sim.core.accounts import Accounts
from sim.core.pools import Pools
from sim.core.state import State


def of_gpus(
    config: Mapping[str, Any], accounts: Accounts, state: State, lanes: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """``gpus`` of ``result.json``, and why what is null is so; nothing where there is one.

    ``budget_bytes`` is of each; ``imbalance``: the largest over the mean, of what was not there when it was demanded
    and of the time that experts took.
    """
    count = config["hardware"].get("gpus", 1)
    if count == 1:
        return {}, {}
    said: dict[str, Any] = {
        "count": count,
        "placement": config["placement"],
        "budget_bytes": config["budget_bytes"] // count,
        "by_gpu": None,
        "imbalance": None,
    }
    if not isinstance(state, Pools):
        why = "all GPUs do the same at the same time"
        return {"gpus": said}, {"gpus.by_gpu": why, "gpus.imbalance": why}
    wall = accounts.wall_ns
    said["by_gpu"] = [
        {
            "lookups": its.lookups,
            "complete_hits": its.complete,
            "copied_bytes": its.copied_bytes,
            "peak_bytes": peak,
            "link_utilisation": its.link_busy_ns / (wall * lanes) if wall else None,
            "compute_ns": its.compute_ns,
            "expert_ns": its.expert_ns,
            "stall_ns": dict(zip(accounts.causes, its.stall_ns, strict=False)),
            "peer_ns": its.peer_ns,
            "idle_ns": its.idle_ns,
        }
        for its, peak in zip(accounts.by_gpu, state.pool_peak, strict=True)
    ]
    uneven = {
        "misses": imbalance([its.misses for its in accounts.by_gpu]),
        "expert_time": imbalance([its.expert_ns for its in accounts.by_gpu]),
    }
    said["imbalance"] = uneven
    nulls = {f"gpus.imbalance.{name}": "there were none" for name, value in uneven.items() if value is None}
    if not wall:
        nulls |= {f"gpus.by_gpu.{i}.link_utilisation": "no time passed" for i in range(count)}
    return {"gpus": said}, nulls


def imbalance(amounts: Sequence[int]) -> float | None:
    """The largest over the mean: 1 where all are alike, their number where one has all; None where none has any."""
    return max(amounts) * len(amounts) / sum(amounts) if any(amounts) else None
