"""No policy copies fewer bytes than belady_bypass, or finishes before time_lower_bound (rule 7)."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.experiment.bounds import Floor, compute_floor_ns
from sim.workload.passes import Pass
from tests.policies.bounds.toy import POLICIES, Lab, ToyCosts, one_by_one, random_lab

LABS = st.integers(0, 2**32).map(lambda seed: random_lab(random.Random(seed)))


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=35)
@given(lab=LABS, share=st.just(0.0) | st.floats(0.1, 0.9))
def test_no_policy_beats_the_bounds_from_the_start_or_after_a_warm_up(name: str, lab: Lab, share: float) -> None:
    warmup = int(share * len(lab.passes))
    if POLICIES[name](lab.setup).min_budget() <= lab.setup.budget:
        accounts = lab.run(POLICIES[name](lab.setup), warmup)
        assert accounts.demand_bytes + accounts.speculative_bytes >= lab.bypass(warmup)
        assert accounts.end_ns - accounts.start_ns >= lab.floor(warmup).ns


@settings(max_examples=30)
@given(LABS)
def test_with_room_for_all_lru_copies_what_the_bound_says(lab: Lab) -> None:
    setup = replace(lab.setup, budget=lab.setup.n_experts * sum(lab.setup.expert_bytes))
    lab = replace(lab, setup=setup)
    compulsory = sum(setup.expert_bytes[x // setup.n_experts] for x in set().union(*lab.demands))
    assert lab.run(POLICIES["lru"](setup)).demand_bytes == lab.bypass() == compulsory


def test_the_time_bound_by_hand() -> None:
    costs = ToyCosts(overhead=0, bytes_per_ns=Fraction(1), expert=40, dense=100, launch=6)
    one = Pass(False, (0,), [(0, 1)], 1, 50, 50, [[0, 1], [], [4]], [[1, 1], [], [1]])
    many = Pass(True, (0,), [(0, 8)], 8, 60, 32, [[1, 0]], [[8, 3]])
    # what leads; dense + software per layer; experts, each with its launch; head
    first = 50 + 3 * (101 + 3) + (40 + 6 + 40 + 6) + (42 + 6) + 100
    second = 50 + (101 + 3) + (80 + 6 + 40 + 6) + 100
    assert compute_floor_ns([one, many], costs) == first + second
    assert compute_floor_ns([], costs) == 0
    assert Floor(0, 0, 7, 5, 6).ns == Floor(0, 0, 5, 7, 6).ns == Floor(0, 0, 5, 6, 7).ns == 7


@settings(max_examples=30)
@given(LABS)
def test_the_engine_computes_just_that(lab: Lab) -> None:
    accounts = lab.run(POLICIES["lru"](lab.setup))
    assert accounts.compute_ns == compute_floor_ns(lab.passes, lab.costs)


def test_the_time_bound_is_attained() -> None:
    """Nothing to compute: the copies are all. Everything there: the compute is all."""
    sequence = [0, 1, 2, 3] * 5
    lab = one_by_one(sequence, 4, 4, expert=0, dense=0, launch=0)
    assert lab.run(POLICIES["lru"](lab.setup)).end_ns == lab.floor().ns == 4
    lab = one_by_one([0, 1, 2, 3, 4, 5], 6, 6, expert=0, dense=0, launch=0, lanes=3)
    together = Pass(False, (0,), [(0, 1)], 1, 1, 1, [[0, 1, 2, 3, 4, 5]], [[1] * 6])
    lab = replace(lab, passes=[together])
    assert lab.run(POLICIES["lru"](lab.setup)).end_ns == lab.floor().ns == 2, "six copies on three lanes"
    lab = one_by_one(sequence, 4, 4)
    lab = replace(lab, passes=lab.passes * 2)
    accounts = lab.run(POLICIES["lru"](lab.setup), warmup=len(sequence))
    assert accounts.end_ns - accounts.start_ns == lab.floor(len(sequence)).ns > 0
