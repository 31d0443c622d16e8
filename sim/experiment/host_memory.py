"""What ``host_memory=`` makes of a cell: a tier above the machine's disk, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from policies.api import Policy, Setup
from sim.core.host_memory import HostTier
from sim.core.state import split_chunks
from sim.experiment.config import RunConfig
from sim.prices import HardwareProfile
from sim.prices.costs import Costs
from sim.prices.curves import Affine, Table
from sim.prices.disk import AUTO, DiskPrices
from traces.kit.errors import UserError
from traces.kit.units import parse_bytes

if TYPE_CHECKING:
    from sim.machine.disk import Reads

DISK = "hardware.disk={gb_per_s: 3, latency_us: 100}"


def used(hardware: HardwareProfile, config: RunConfig) -> HardwareProfile:
    """The machine as a cell has it: a disk is one of its figures only where something is read from it."""
    if config.host_memory is not None:
        return hardware
    return replace(hardware, disk=None, sources=replace(hardware.sources, disk=""))


def tier_of(config: RunConfig, hardware: HardwareProfile, setup: Setup) -> HostTier | None:
    """The host's memory; None: it holds all experts. UserError for what cannot be."""
    if config.host_memory is None:
        return None
    given = f"host_memory={config.host_memory}"
    if hardware.gpus > 1:
        raise UserError(f"{given}: of one GPU so far, and hardware.gpus={hardware.gpus}; allowed: null")
    if hardware.disk is None:
        word = "+" + DISK if config.hardware.get("disk", 0) == 0 else DISK
        raise UserError(
            f"{given}: hardware={hardware.name} has no disk from which the host reads others; allowed: null, or a"
            f" machine with a disk, such as {word}"
        )
    if config.timeline:
        raise UserError(f"timeline=true: shows no disk, and {given}; allowed: false, or host_memory=null")
    total = setup.n_experts * sum(setup.expert_bytes)
    nbytes, least = parse_bytes(config.host_memory, "host_memory", of=total), max(setup.expert_bytes)
    if nbytes < least:
        raise UserError(f"{given}: an expert passes through it; allowed: at least {least} bytes, the largest, or null")
    tier = HostTier(min(nbytes, total), config.host_policy, exclusive=config.host_tier == "exclusive")
    if page_cache_of(hardware, tier, least):
        cached_gb_per_s(hardware)
    return tier


def page_cache_of(hardware: HardwareProfile, tier: HostTier, largest: int) -> int:
    """Bytes of the page cache: as given, or (AUTO) what the host's memory leaves beside ``tier``; 0: none.

    UserError for one that has no room for the ``largest`` expert, which would never serve it, or for AUTO where there
    is no such figure; where nothing much is left, AUTO is 0.
    """
    assert hardware.disk is not None
    key, given, memory = "hardware.disk.page_cache", hardware.disk.page_cache, hardware.host.memory_bytes
    if isinstance(given, int):
        if 0 < given < largest:
            allowed = f"at least {largest} bytes, the largest, or 0"
            raise UserError(f"{key}={given}: whole experts are cached; allowed: {allowed}")
        return given
    if memory is None:
        raise UserError(
            f"{key}={AUTO}: what host_memory= leaves of hardware.host.memory_bytes, which is null; allowed: bytes, as"
            " 8GB, or 0; or hardware.host.memory_bytes=64000000000"
        )
    if tier.capacity > memory:
        raise UserError(
            f"host_memory={tier.capacity}: more than hardware.host.memory_bytes={memory}, of which {key}={AUTO} is to"
            f" have the rest; allowed: at most {memory} bytes"
        )
    left = memory - tier.capacity
    return left if left >= largest else 0


def cached_gb_per_s(hardware: HardwareProfile) -> Fraction:
    """What a lane reads out of the page cache. UserError where nothing is known of it."""
    assert hardware.disk is not None
    rate = DiskPrices(hardware.disk).cached_gb_per_s(hardware.host.dram_gb_per_s)
    if rate is None:
        raise UserError(
            "hardware.disk.page_cache_gb_per_s=null: inferred from hardware.host.dram_gb_per_s, which is null, too;"
            " allowed: a finite number above 0"
        )
    return rate


def resolved(hardware: HardwareProfile, tier: HostTier | None, largest: int) -> dict[str, Any]:
    """What the host holds, of a result's configuration; nothing where it holds all."""
    if tier is None:
        return {}
    page_cache = page_cache_of(hardware, tier, largest)
    return {
        "host_memory_bytes": tier.capacity,
        "host_policy": tier.policy,
        "host_tier": "exclusive" if tier.exclusive else "inclusive",
        **({"page_cache_bytes": page_cache} if page_cache else {}),
    }


def check_policy(policy: Policy, config: RunConfig) -> None:
    """UserError for a policy that wants all experts in host memory, or some of them in several dtypes."""
    if config.host_memory is None:
        return
    given = f"host_memory={config.host_memory}: policy={policy.name}"
    if policy.uses("place") or policy.uses("precompute"):
        raise UserError(f"{given} has the host compute, which needs all experts there; allowed: null")
    if policy.setup.versions:
        dtypes = ", ".join(policy.setup.versions)
        raise UserError(f"{given} has experts in several dtypes ({dtypes}), and a disk's are in one; allowed: null")


def reads_of(hardware: HardwareProfile, costs: Costs, setup: Setup, tier: HostTier) -> Reads:
    """What the disk takes for each chunk, out of the page cache, too, and the way back to the host."""
    from sim.machine.disk import Reads

    assert hardware.disk is not None
    prices = DiskPrices(hardware.disk)
    cut = [split_chunks(size, setup.chunks) for size in setup.expert_bytes]
    read_ns = [ns for chunks in map(prices.chunks_ns, cut) for _ in range(setup.n_experts) for ns in chunks]
    page_cache, cached_ns = page_cache_of(hardware, tier, max(setup.expert_bytes)), list[int]()
    if page_cache:
        memory = Affine(Fraction(0), 1 / cached_gb_per_s(hardware))
        cached_ns = [memory.ns(nbytes) for chunks in cut for _ in range(setup.n_experts) for nbytes in chunks]
    return Reads(read_ns, _back(hardware, costs), hardware.disk.lanes, page_cache, cached_ns)


def _back(hardware: HardwareProfile, costs: Costs) -> Callable[[int], int]:
    """An expert's way from the GPU to the host: one copy call."""
    link, measured = hardware.link, hardware.measured
    way: Affine | Table = Affine(link.overhead_us * 1000, 1 / (link.d2h_gb_per_s or link.h2d_gb_per_s))
    if measured is not None:
        way = Table(measured.copy_d2h_pinned.axes["bytes"], measured.copy_d2h_pinned.ns)
    return lambda nbytes: way.ns(nbytes) + costs.copy_overhead_ns
