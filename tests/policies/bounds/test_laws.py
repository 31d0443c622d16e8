"""No policy copies fewer bytes than belady_bypass, or finishes before time_lower_bound (rule 7)."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.bounds.toy import POLICIES, Lab, random_lab

LABS = st.integers(0, 2**32).map(lambda seed: random_lab(random.Random(seed)))


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=200)
@given(lab=LABS, share=st.just(0.0) | st.floats(0.1, 0.9))
def test_no_policy_beats_the_bounds_from_the_start_or_after_a_warm_up(name: str, lab: Lab, share: float) -> None:
    warmup = int(share * len(lab.passes))
    if POLICIES[name](lab.setup).min_budget() <= lab.setup.budget:
        accounts = lab.run(POLICIES[name](lab.setup), warmup)
        assert accounts.demand_bytes + accounts.speculative_bytes >= lab.bypass(warmup)
        assert accounts.end_ns - accounts.start_ns >= lab.least_ns(warmup)


@settings(max_examples=100)
@given(LABS)
def test_with_room_for_all_lru_copies_what_the_bound_says(lab: Lab) -> None:
    setup = replace(lab.setup, budget=lab.setup.n_experts * sum(lab.setup.expert_bytes))
    lab = replace(lab, setup=setup)
    compulsory = sum(setup.expert_bytes[x // setup.n_experts] for x in set().union(*lab.demands))
    assert lab.run(POLICIES["lru"](setup)).demand_bytes == lab.bypass() == compulsory
