"""Random cases above a disk; other tests may import these."""

from dataclasses import replace

from hypothesis import strategies as st

from sim.core.host_memory import HOST_POLICIES, HostTier
from tests.sim.machine.cases import FlatDisk
from tests.sim.machine.restless import Case, cases


@st.composite
def tiered_cases(draw: st.DrawFn) -> tuple[Case, HostTier, FlatDisk]:
    """Cases whose host holds one expert at least, and all at most; half of them with a page cache."""
    case = draw(cases())
    sizes = case.setup.expert_bytes
    capacity = draw(st.integers(max(sizes), sum(sizes) * case.setup.n_experts))
    tier = HostTier(capacity, draw(st.sampled_from(HOST_POLICIES)), exclusive=draw(st.booleans()))
    durations = st.sampled_from([0, 1, 3, 10, 50])
    disk = FlatDisk(1 + draw(durations), draw(durations), draw(st.sampled_from([1, 1, 2, 3])), draw(durations))
    if draw(st.booleans()):
        page_cache = draw(st.integers(max(sizes) - 1, sum(sizes) * case.setup.n_experts // 2))
        disk = replace(disk, page_cache=page_cache, per_cached_byte=draw(st.integers(0, 3)))
    return case, tier, disk
