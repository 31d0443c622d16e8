"""The least time: compute at its cheapest grouping, copies at peak bandwidth."""

import random
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds.time_lower_bound import compute_floor_ns, time_lower_bound_ns
from policies.lru import LRU
from sim.workload.passes import Pass
from tests.policies.bounds.toy import ToyCosts, one_by_one, random_lab


def test_by_hand() -> None:
    costs = ToyCosts(overhead=0, bytes_per_ns=Fraction(1), expert=40, dense=100, launch=6)
    one = Pass(False, (0,), [(0, 1)], 1, 50, 50, [[0, 1], [], [4]], [[1, 1], [], [1]])
    many = Pass(True, (0,), [(0, 8)], 8, 60, 32, [[1, 0]], [[8, 3]])
    # what leads; dense + software per layer; experts, a launch per event; head
    first = 50 + 3 * (101 + 3) + (40 + 40 + 6) + (42 + 6) + 100
    second = 50 + (101 + 3) + (80 + 40 + 6) + 100
    assert compute_floor_ns([one, many], costs) == first + second
    assert compute_floor_ns([], costs) == 0
    assert time_lower_bound_ns(7, 5) == time_lower_bound_ns(5, 7) == 7


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_the_engine_computes_that_and_a_launch_per_further_expert(seed: int) -> None:
    lab = random_lab(random.Random(seed))
    accounts = lab.run(LRU(lab.setup))
    further = sum(len(demand) - 1 for demand in lab.demands if demand)
    assert accounts.compute_ns == compute_floor_ns(lab.passes, lab.costs) + further * lab.costs.launch_ns


def test_it_is_attained() -> None:
    """Nothing to compute: the copies are all. Everything there: the compute is all."""
    sequence = [0, 1, 2, 3] * 5
    lab = one_by_one(sequence, 4, 4, expert=0, dense=0, launch=0)
    assert lab.run(LRU(lab.setup)).end_ns == lab.least_ns() == 4
    lab = one_by_one(sequence, 4, 4)
    lab = replace(lab, passes=lab.passes * 2)
    accounts = lab.run(LRU(lab.setup), warmup=len(sequence))
    assert accounts.end_ns - accounts.start_ns == lab.least_ns(len(sequence)) > 0
