"""The law above a disk: with host memory for some experts a policy keeps the rules, with all it does as without."""

from typing import Any

from sim.check.laws import _hold, everything, ready, run
from sim.check.synthetic import FakeSignals
from sim.check.variants import Variant
from sim.check.witness import TieredWitness
from sim.core.host_memory import HOST_POLICIES, HostTier
from sim.core.log import replay
from sim.core.several import core_of
from sim.machine.disk import Reads
from sim.machine.machine import Machine


def assert_above_a_disk(variant: Variant, seed: int) -> None:
    """A host that holds all is no tier, to the nanosecond; one that holds some keeps its budget, its accounts add up,
    and the log decides the same without a clock. A policy whose experts the host computes wants all there."""
    routing, usual = everything(seed, variant.world)
    setup = variant.roomy(usual)
    policy = variant.build(setup)
    if policy.uses("place") or policy.uses("precompute"):
        return
    total, largest = setup.n_experts * sum(setup.expert_bytes), max(setup.expert_bytes)
    done = run(policy, routing)
    whole = _run(variant, seed, HostTier(total))
    _hold(whole.digest() == done.core.digest(), "decides otherwise above a host that holds all experts")
    whole.accounts.tier = None
    _hold(whole.accounts == done.accounts, "another account of a host that holds all experts")
    some = min(total, largest * (1 + 3 * seed))
    tier = HostTier(some, HOST_POLICIES[seed % len(HOST_POLICIES)], exclusive=seed % 2 == 1)
    core = _run(variant, seed, tier)
    _hold(core.host.peak <= some, "more bytes than host memory")
    if policy.lossless:
        _hold(core.accounts.hit_row()[0] == done.lookups, "computes something else above a disk")
    again: Any = core_of(ready(variant.build(setup), routing), setup, FakeSignals(routing.signals), tier)
    _hold(replay(core.log, again) == core.digest(), "decided otherwise where there was no clock, above a disk")


def _run(variant: Variant, seed: int, tier: HostTier) -> TieredWitness:
    routing, usual = everything(seed, variant.world)
    setup = variant.roomy(usual)
    core = TieredWitness(ready(variant.build(setup), routing), setup, FakeSignals(routing.signals), tier)
    costs: Any = setup.costs
    read_ns = [3 * costs.copy_ns(b) for b in core.state.chunk_bytes]
    page_cache = tier.capacity if seed % 2 else 0  # who serves a read is no policy's business
    cached_ns = [ns // 2 for ns in read_ns]
    reads = Reads(read_ns, costs.copy_ns, 1 + seed % 2, page_cache, cached_ns)
    Machine(core, costs, lanes=setup.lanes, reads=reads).run((), routing.passes()).check()
    return core
