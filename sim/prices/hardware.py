"""A machine's figures: published by others or measured here. GB = 10^9 bytes; units are in the names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Self

from policies import registry
from sim.prices.disk import Disk
from sim.prices.measured import Measured
from traces.kit.readers import (
    Count,
    Delay,
    Rate,
    Share,
    Text,
    Threads,
    by_name,
    nullable,
    number,
    record,
    refusal,
    text,
    whole,
)

Optional = Annotated[Fraction | None, nullable(number())]
Unread = Optional
"""A figure that is kept with its source, and that no price depends on as yet."""
MOST_GPUS = 64
OwnTime = Annotated[Fraction, number(zero=True, at_most=10**9)]


@dataclass(frozen=True)
class Efficiency:
    """Share of each peak that is reached; 1 is the bare roofline."""

    flops: Share
    hbm: Share


@dataclass(frozen=True)
class Gpu:
    memory_bytes: Count
    hbm_gb_per_s: Rate
    tflops: Annotated[dict[str, Fraction], by_name(number())]  # dense tensor peak, 10^12 flop/s, by compute dtype
    launch_us: Delay  # per expert launched
    efficiency: Annotated[Efficiency, record(Efficiency)]


@dataclass(frozen=True, kw_only=True)
class Link:
    h2d_gb_per_s: Rate  # from pinned memory
    d2h_gb_per_s: Optional = None  # of the activations of experts that the host computes; null: as the other way
    overhead_us: Delay  # per copy call
    depth: Count  # copies handed over at once, for each lane; these always finish
    lanes: Threads = (
        1  # copies under way at once, each at the rate above: the figures are of one lane while all are busy
    )
    pageable_gb_per_s: Unread = None


@dataclass(frozen=True)
class Peer:
    """From one GPU to another, whichever: one figure for all pairs."""

    gb_per_s: Rate
    latency_us: Delay


@dataclass(frozen=True, kw_only=True)
class Host:
    dram_gb_per_s: Optional = None  # shared by the link and the experts that the host computes
    cpu_threads: Annotated[int | None, nullable(whole(1, 2**16))] = None
    cpu_tflops: Optional = None  # 10^12 flop/s of all of them, at the dtype in which models compute
    workers: Threads = 1  # experts that they compute at a time, each by its even share of the threads
    predictor_threads: Threads
    memory_bytes: Annotated[int | None, nullable(whole(1))] = None  # that experts and the page cache share


@dataclass(frozen=True)
class PolicyTime:
    """CPU time of a policy's own decisions, above those of on_demand, whose are within the overhead per layer."""

    prefill: OwnTime = Fraction(0)  # per prefill pass, whatever its tokens
    decode: OwnTime = Fraction(0)  # per decode pass

    def ns(self) -> tuple[int, int]:
        """Whole nanoseconds per pass, rounded up: (prefill, decode)."""
        return -(-self.prefill * 1000 // 1), -(-self.decode * 1000 // 1)


def _by_policy(value: Any, where: str) -> dict[str, PolicyTime]:
    if not isinstance(value, Mapping):
        raise refusal(value, where, "a mapping of policies to microseconds per pass, {prefill, decode}; {}: none")
    for name, item in value.items():
        if registry.find(str(name), where).clairvoyant:
            raise refusal(name, where, "policies that can be chosen; a reference row is charged nothing")
        if item == {}:
            raise refusal(item, f"{where}.{name}", "a mapping with prefill, decode or both")
    return {name: record(PolicyTime)(item, f"{where}.{name}") for name, item in value.items()}


@dataclass(frozen=True)
class Software:
    layer_overhead_us: Delay  # per MoE layer and pass
    copy_overhead_us: Delay = Fraction(0)  # per copy call, on top of what the link itself takes
    policy_us: Annotated[dict[str, PolicyTime], _by_policy] = field(default_factory=dict)  # by policy; one not named: 0


@dataclass(frozen=True)
class Runtime:
    """The runtime's own overheads, as ``python -m real calibrate`` found them beside the device's figures."""

    date: Text  # UTC
    model: Text  # what was run
    routing: Text  # on which routing: another than the one that is predicted
    method: Text
    layer_overhead_us: Delay
    launch_us: Delay
    copy_overhead_us: Delay
    fit: Annotated[dict[str, Fraction], by_name(number(zero=True))]  # how far each run is off once they are in


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where each figure is from; a text that begins with ``inferred`` is a modelling choice."""

    memory_bytes: Text
    hbm_gb_per_s: Text
    tflops: Text
    launch_us: Text
    h2d_gb_per_s: Text
    d2h_gb_per_s: Text = ""
    overhead_us: Text
    pageable_gb_per_s: Text = ""
    dram_gb_per_s: Text = ""
    cpu_tflops: Text = ""
    peer: Text = ""
    root_gb_per_s: Text = ""
    disk: Text = ""


@dataclass(frozen=True)
class HardwareProfile:
    """A GPU, its link and its host; with ``gpus`` so many of both, all alike."""

    name: Text
    provenance: Annotated[str, text("published", "measured")]
    sources: Annotated[Sources, record(Sources)]
    gpu: Annotated[Gpu, record(Gpu)]
    link: Annotated[Link, record(Link)]
    host: Annotated[Host, record(Host)]
    software: Annotated[Software, record(Software)]
    measured: Annotated[Measured | None, nullable(record(Measured))] = None  # tables, which then take precedence
    runtime: Annotated[Runtime | None, nullable(record(Runtime))] = None
    gpus: Annotated[int, whole(1, MOST_GPUS)] = 1
    peer: Annotated[Peer | None, nullable(record(Peer))] = None  # of several; null: nothing goes from GPU to GPU
    root_gb_per_s: Optional = None  # what the links of all GPUs have together; null: each has its own in full
    disk: Annotated[Disk | None, nullable(record(Disk))] = None  # below host memory; null: the host holds all experts
    title: Text = ""  # what people call it; no figure, so that no cell's key and no stored profile has it

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "hardware") -> Self:
        """Read the keys above; UserError names the offending one."""
        profile = record(cls)(mapping, where)
        if profile.measured is not None:
            profile._check_tables(profile.measured, where)
        if profile.runtime is not None:
            profile._check_runtime(where)
        return profile

    def _check_tables(self, measured: Measured, where: str) -> None:
        """Tables are of a measured machine, and no constant that they replace was changed beside them.

        Copies were timed one after the other, on one lane that had the link to itself: n of them have no n times that.
        """
        way_out = f"or {where}.measured=null, to price by the constants"
        if self.provenance != "measured":
            raise refusal(self.provenance, f"{where}.provenance", f"measured, as there is {where}.measured")
        if self.link.lanes > 1:
            allowed = f"1, as {where}.measured.copy_h2d_pinned is of one copy at a time; {way_out}"
            raise refusal(self.link.lanes, f"{where}.link.lanes", allowed)
        copies = measured.copy_h2d_pinned
        best = max(n / Fraction(ns) for n, ns in zip(copies.axes["bytes"], copies.ns, strict=True))
        overhead = max(Fraction(0), copies.ns[0] - copies.axes["bytes"][0] / best) / 1000
        for key, derived in (("h2d_gb_per_s", best), ("overhead_us", overhead)):
            given: Fraction = getattr(self.link, key)
            if abs(given - derived) > derived / 1000 + Fraction(1, 1000):
                allowed = f"{float(derived):.3f}, which {where}.measured.copy_h2d_pinned gives; {way_out}"
                raise refusal(float(given), f"{where}.link.{key}", allowed)

    def _check_runtime(self, where: str) -> None:
        """The overheads are those that were found: what is changed is no longer the runtime's."""
        assert self.runtime is not None
        for group, key in (("software", "layer_overhead_us"), ("gpu", "launch_us"), ("software", "copy_overhead_us")):
            given, found = getattr(getattr(self, group), key), getattr(self.runtime, key)
            if given != found:
                allowed = f"{float(found):g}, which {where}.runtime.{key} gives; or {where}.runtime=null"
                raise refusal(float(given), f"{where}.{group}.{key}", allowed)

    @property
    def overheads(self) -> str:
        """Whose overheads the prices hold, in words."""
        runtime = self.runtime
        if runtime is None:
            return "none of the runtime's: python -m real calibrate measures them"
        return f"the runtime's own, measured {runtime.date} with {runtime.model} on {runtime.routing}"

    @property
    def inferred(self) -> tuple[str, ...]:
        """The figures that no source states; of one GPU not those that only several have."""
        unused = ("peer", "root_gb_per_s") if self.gpus == 1 else ()
        found = (key for key, source in vars(self.sources).items() if source.startswith("inferred"))
        return tuple(key for key in found if key not in unused)


def policy_time(hardware: HardwareProfile, policy: str) -> PolicyTime:
    """What a machine charges for a policy's own decisions; 0 where its profile says nothing of the policy."""
    return hardware.software.policy_us.get(policy) or PolicyTime()
