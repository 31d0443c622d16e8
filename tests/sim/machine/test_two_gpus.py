"""Two GPUs beside one that has as much memory as each of them. Above each law, the bug that it prevents."""

from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Setup
from policies.lru import LRU
from sim.core.accounts import Accounts
from sim.core.several import core_of
from sim.machine.machine import Machine
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs
from sim.prices.placement import WHOLE, Spread
from sim.workload.passes import Pass
from tests.sim.machine.cases import NoSignals, some_passes
from tests.sim.machine.restless import EXAMPLES

LAYERS, EXPERTS = 3, 6
MODEL = ModelProfile.from_dict(shipped("model", "mixtral_8x7b"))
SIZE = MODEL.priced()[0]
ONE = Spread()


@dataclass(frozen=True)
class Case:
    passes: list[Pass]
    memory: int
    """Of the one, and of each of the two, in bytes."""


@st.composite
def some_cases(draw: st.DrawFn) -> Case:
    passes = some_passes(LAYERS, EXPERTS, draw(st.integers(1, 12)), seed=draw(st.integers(0, 99)))
    return Case(passes, SIZE * draw(st.integers(1, LAYERS * EXPERTS)))


def run(case: Case, spread: Spread, memory: int | None = None, root: int | None = None) -> Accounts:
    """LRU with ``memory`` on each GPU; ``root``: GB/s that all links have together."""
    hardware = HardwareProfile.from_dict({**shipped("hardware", "rtx_3090_x2"), "root_gb_per_s": root})
    costs = Costs(MODEL, hardware, None, spread)
    budget = (case.memory if memory is None else memory) * (spread.gpus // spread.alike)
    homes = spread.homes(LAYERS, EXPERTS)
    sizes = costs.expert_bytes[:LAYERS]
    setup = Setup(LAYERS, EXPERTS, 2, sizes, 1, budget, costs, 0, gpus=spread.pools, homes=homes)
    reduce_ns = costs.peers.all_reduce_ns if spread.parts > 1 else None
    narrow = None if root is None else Fraction(root)
    core = core_of(LRU(setup), setup, NoSignals())
    machine = Machine(core, costs, root=narrow, peer_ns=costs.peers.ns, all_reduce_ns=reduce_ns)
    return machine.run((), case.passes)


# A second GPU that makes a run faster although it does what the first does.
@settings(EXAMPLES, max_examples=12)
@given(case=some_cases())
def test_the_same_on_both_is_no_faster_than_one(case: Case) -> None:
    one, same = run(case, ONE), Spread("replicate", 2)
    assert run(case, same).wall_ns == one.wall_ns, "with links of their own they are one"
    behind = run(case, same, root=26)
    assert behind.demand_bytes == one.demand_bytes
    assert behind.wall_ns > one.wall_ns, "both copy everything through what one had"
    halves = run(case, same, max(SIZE, case.memory // SIZE // 2 * SIZE))
    assert halves.demand_bytes >= one.demand_bytes, "with as much memory together each holds half"


# A placement of whole experts, or of parts, that copies what the other GPU has; or that waits for what it need not.
@settings(EXAMPLES, max_examples=12)
@given(case=some_cases())
def test_whoever_holds_his_own_waits_no_longer_than_one(case: Case) -> None:
    one = run(case, ONE)
    for placement in (*WHOLE, "shard"):
        two = run(case, Spread(placement, 2))
        assert two.demand_bytes <= one.demand_bytes
        assert two.wall_ns - two.peer_ns <= one.wall_ns
        assert sum(two.stall_row()) <= sum(one.stall_row())
    parts = run(case, Spread("shard", 2), root=26)
    assert parts.wall_ns - parts.peer_ns <= one.wall_ns, "the parts are one copy together"
