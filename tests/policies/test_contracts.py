"""What every policy owes, found by itself: causality, budget, accounts, determinism, a true minimum, a YAML."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from policies import registry
from policies.lru import LRU
from sim.check.laws import (
    Witness,
    assert_causal,
    assert_decided,
    assert_keeps_the_rules,
    assert_minimum,
    assert_says_what_it_is,
    assert_serves,
    assert_spreads,
    everything,
    run,
)
from sim.check.serving import served
from sim.check.synthetic import FakeSignals
from sim.check.variants import Variant, of_mixed, variants
from tests.policies.turns import in_turn, some
from traces.kit import conf

YAMLS = conf.FOLDER / "policy"
EVERY = list(variants())
FIRST = list({v.name: v for v in reversed(EVERY)}.values())
"""One of each policy: for what changes few of its parameters' meaning. ``python -m sim check`` tries all."""
MIXED = list(of_mixed())
CAUSAL = [v for v in EVERY if not registry.find(v.name).clairvoyant]


def turns(variants: Sequence[Variant], seeds: int) -> pytest.MarkDecorator:
    found = [pytest.param(variant, seed, id=f"{variant}-{seed}") for variant, seed in in_turn(variants, seeds)]
    return pytest.mark.parametrize(("variant", "seed"), found)


@turns(some(CAUSAL, 2, 0), 4)
def test_nothing_is_decided_by_what_comes_later(variant: Variant, seed: int) -> None:
    assert_causal(lambda setup, _: variant.build(setup), seed, variant.world, moments=4 if variant in FIRST else 2)


@turns(some(EVERY, 2, 1), 6)
def test_budget_accounts_determinism_and_clockless_replay(variant: Variant, seed: int) -> None:
    assert_keeps_the_rules(variant, seed)


def test_every_variant_has_its_turn() -> None:
    """With one of the two laws above; and each seed with the defaults of every other policy."""
    assert {*some(EVERY, 2, 0), *some(EVERY, 2, 1)} == {*EVERY}
    seeds = [{seed for variant, seed in in_turn(FIRST, 6) if variant == first} for first in FIRST]
    assert all(one | other == set(range(6)) and len(one) == 3 for one, other in pairwise(seeds))


@pytest.mark.parametrize("variant", [*FIRST, *MIXED], ids=str)
def test_it_keeps_the_rules_where_requests_are_served_together(variant: Variant) -> None:
    assert_serves(variant, 1)


@pytest.mark.parametrize("variant", MIXED, ids=str)
def test_what_is_made_of_mixed_passes_changes_these_and_no_others(variant: Variant) -> None:
    """Of prompts and tokens apart, also of several requests, it decides as its policy does; of mixed passes not."""
    usual = Variant(variant.name)
    plain, setup = everything(1, variant.world)
    setup = variant.roomy(setup)
    assert run(variant.build(setup), plain).core.digest() == run(usual.build(setup), plain).core.digest()
    mixed = [served(seed, variant.world) for seed in range(4)]
    layers = mixed[0].ids.shape[1]
    others = {dtype: (sizes[0],) * layers for dtype, sizes in setup.others.items()}
    setup = replace(setup, n_layers=layers, expert_bytes=setup.expert_bytes[:1] * layers, others=others)
    assert any(run(variant.build(setup), it).core.digest() != run(usual.build(setup), it).core.digest() for it in mixed)


@turns(some(EVERY, 4, 0), 4)
def test_with_several_gpus_it_keeps_the_rules_or_says_why_it_cannot(variant: Variant, seed: int) -> None:
    assert_spreads(variant, seed)


@pytest.mark.parametrize("variant", some(EVERY, 3, 0), ids=str)
def test_the_declared_minimum_is_enough_and_is_enforced(variant: Variant) -> None:
    assert_minimum(variant)


@pytest.mark.parametrize("variant", some(EVERY, 4, 2), ids=str)
def test_what_it_states_is_plain_the_same_again_and_decides_nothing(variant: Variant) -> None:
    assert_decided(variant)


@pytest.mark.ci
def test_no_hash_seed_changes_a_decision() -> None:
    imports = "import json; from sim.check.laws import digests; from tests.policies.test_contracts import EVERY; "
    program = f"{imports}print(json.dumps(digests(EVERY)))"
    outputs = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        outputs.add(subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True).stdout)
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == len(EVERY)


@pytest.mark.parametrize("name", [n for n in registry.names() if not registry.find(n).clairvoyant])
def test_a_policy_has_a_yaml_with_its_parameters_and_defaults(name: str) -> None:
    text = (YAMLS / f"{name}.yaml").read_text()
    given = yaml.safe_load(text)
    assert given.pop("name") == name
    assert given == registry.defaults(name)
    assert {k: type(v) for k, v in given.items()} == {k: type(v) for k, v in registry.defaults(name).items()}
    assert list(given) == list(registry.parameters(name))
    assert all(" # " in line for line in text.splitlines()[2:])


@pytest.mark.parametrize("name", registry.names())
def test_a_policy_says_what_it_is(name: str) -> None:
    assert_says_what_it_is(name)


def test_the_witness_sees_a_broken_budget() -> None:
    routing, setup = everything(0)
    core = Witness(LRU(setup), setup, FakeSignals(routing.signals))
    core.state.slot[:] = b"\1" * len(core.state.slot)
    with pytest.raises(AssertionError):
        core.next_chunk()
