"""What a result says of a host memory that does not hold all experts, and of the disk below it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sim.core.accounts import Accounts, TierAccounts
from traces.kit.units import format_bytes


def held_by_host(config: Mapping[str, Any]) -> str:
    """What the host holds above a disk, in a few words; "-" where it holds all experts."""
    if config.get("host_memory_bytes") is None:
        return "-"
    return f"{format_bytes(config['host_memory_bytes'])} {config['host_tier']} {config['host_policy']}"


def totals_of(tier: TierAccounts) -> dict[str, Any]:
    """Its integers, as ``totals`` has them: of a page cache where there is one."""
    return {key: value for key, value in asdict(tier).items() if value is not None}


def of_host_memory(config: Mapping[str, Any], accounts: Accounts, tokens: int) -> tuple[dict[str, Any], dict[str, str]]:
    """``host_memory`` of ``result.json``, and why what is null is so; nothing where the host holds all experts.

    ``hit_rate``: of loads, those that were whole in host memory when they first wanted something of it.
    """
    tier = accounts.tier
    if tier is None:
        return {}, {}
    wall = accounts.wall_ns * config["hardware"]["disk"]["lanes"]
    shares = {
        "hit_rate": (tier.hits, tier.lookups, "nothing was loaded"),
        "bytes_there": (tier.ready_bytes, tier.asked_bytes, "nothing was loaded"),
        "demand_bytes_per_token": (tier.demand_bytes, tokens, "no tokens were generated"),
        "speculative_bytes_per_token": (tier.speculative_bytes, tokens, "no tokens were generated"),
        "disk_utilisation": (tier.busy_ns, wall, "no time passed"),
    }
    if (cache := tier.page_cache) is not None:
        shares |= {
            "page_cache_share": (cache.nbytes, tier.read_bytes, "nothing was read"),
            "page_cache_bytes_per_token": (cache.nbytes, tokens, "no tokens were generated"),
            "disk_bytes_per_token": (cache.disk_bytes, tokens, "no tokens were generated"),
        }
    said = {
        "capacity_bytes": config["host_memory_bytes"],
        "policy": config["host_policy"],
        "tier": config["host_tier"],
        "peak_bytes": tier.peak_bytes,
        **{name: part / whole if whole else None for name, (part, whole, _) in shares.items()},
    }
    return {"host_memory": said}, {f"host_memory.{key}": why for key, (_, whole, why) in shares.items() if not whole}
