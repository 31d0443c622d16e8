"""What every policy owes, found by itself: causality, budget, accounts, determinism, a true minimum, a YAML."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from lab import CONF, FakeSignals, FlatCosts, Routing, Variant, Witness, draw, ready, run, setup_of, variants

from policies import registry
from policies.api import LayerEvent, Policy, Setup
from policies.bounds.future import Future
from policies.lru import LRU
from sim.core.core import Core
from sim.facts import stated
from sim.replay import replay
from traces.errors import UserError

EVERY = list(variants())
CAUSAL = [v for v in EVERY if not registry.find(v.name).clairvoyant]
EXPERT = 12  # bytes
SLOW = FlatCosts(copy=170, expert=30)  # the link is the bottleneck
FAST = FlatCosts(copy=20, expert=90)  # prefetches arrive in time


def everything(seed: int, layers: int = 3) -> tuple[Routing, Setup]:
    costs = FAST if seed % 2 else SLOW
    routing = draw(seed, n_layers=layers + seed % 2, decode=10)
    return routing, setup_of(routing, EXPERT * (5 + seed), chunks=1 + seed % 3, costs=costs)


def change_after(routing: Routing, step: int, layer: int, seed: int) -> Routing:
    """Another trace, alike until the gate of ``layer`` in ``step`` (-1: until the step begins)."""
    rng = np.random.default_rng(seed)
    _, first, rows = routing.steps[step]
    other = draw(seed, *routing.ids.shape[1:2], routing.n_experts, routing.ids.shape[2], decode=60)
    late = np.zeros((len(routing.ids), routing.ids.shape[1]), bool)
    late[first + rows :] = True
    late[first : first + rows, max(layer, 0) :] = True
    signals = {}
    for name, old in routing.signals.items():
        new = other.signals[name][rng.integers(0, len(other.ids), len(old))]
        if old.ndim > 2:
            signals[name] = np.where(late.reshape(*late.shape, *[1] * (old.ndim - 2)), new, old)
        else:  # known when the step begins
            signals[name] = old.copy()
            begin = first if layer < 0 else first + rows
            signals[name][begin:] = new[begin:]
    return Routing(signals["expert_ids"], routing.steps, routing.n_experts, signals)


def assert_causal(make, seed: int, layers: int = 3) -> None:  # type: ignore[no-untyped-def]
    """Whatever is decided before t is the same when everything after t is changed; for several t."""
    routing, setup = everything(seed, layers)
    least = make(replace(setup, budget=10_000), routing).min_budget()
    setup = replace(setup, budget=max(setup.budget, least))
    before = run(make(setup, routing), routing).core
    rng = np.random.default_rng(seed)
    for _ in range(4):
        step, layer = int(rng.integers(1, len(routing.steps))), int(rng.integers(-1, setup.n_layers))
        changed = change_after(routing, step, layer, seed + 1000)
        assert not np.array_equal(changed.ids, routing.ids)
        after = run(make(setup, changed), changed).core
        until = next(i for i, s in enumerate(before.snapshots) if (s.step, s.layer) == (step + 1, layer))
        then = before.snapshots[until]
        alike = then == after.snapshots[until] and before.log[: then.told] == after.log[: then.told]
        assert alike, f"decided before step {step}, layer {layer}, with knowledge of later"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", CAUSAL, ids=str)
def test_nothing_is_decided_by_what_comes_later(variant: Variant, seed: int) -> None:
    assert_causal(lambda setup, _: variant.build(setup), seed, variant.layers)


class Peeker(LRU):
    """Planted: it was given the demand of the whole run, and prefetches what comes next."""

    name = "peeker"

    def __init__(self, setup: Setup, demand: list[list[int]]) -> None:
        super().__init__(setup)
        self.future = iter(demand)
        next(self.future)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        for x in next(self.future, []):
            self.actions.prefetch(x, 0.0)


class Schemer(LRU):
    """Planted: it evicts what is not needed any more, without any prefetch."""

    name = "schemer"

    def __init__(self, setup: Setup, demand: list[list[int]]) -> None:
        super().__init__(setup)
        self.left = [x for event in demand for x in event]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        able = [x for x in self.orders[incoming // self.span] if self.view.evictable(x)]
        return min(able, key=lambda x: self.left.count(x), default=None)


@pytest.mark.parametrize("planted", [Peeker, Schemer])
def test_the_law_of_causality_catches_who_peeks(planted: type) -> None:
    def make(setup: Setup, routing: Routing) -> Policy:
        return planted(setup, [d for p in routing.passes() for d in p.demand])  # type: ignore[no-any-return]

    for seed in range(4):
        with pytest.raises(AssertionError, match="with knowledge of later"):
            assert_causal(make, seed)


def test_the_law_of_causality_catches_the_clairvoyant() -> None:
    def make(setup: Setup, routing: Routing) -> Policy:
        policy = registry.build("perfect_next_layer", setup, {})
        demand = (d for p in routing.passes() for d in p.demand)
        policy.foresee(Future.of(demand, setup.n_layers * setup.n_experts))  # type: ignore[attr-defined]
        return policy

    with pytest.raises(AssertionError, match="with knowledge of later"):
        assert_causal(make, 1)


def assert_keeps_the_rules(variant: Variant, seed: int) -> None:
    """Budget, accounts, determinism, clockless replay; a lossless policy computes what the gates chose."""
    routing, setup = everything(seed, variant.layers)
    setup = variant.roomy(setup)
    depth = 1 + seed % 2
    done = run(variant.build(setup), routing, depth=depth)  # the witness checks the budget at every answer
    done.accounts.check()
    rows = sum(len(set(d)) for p in routing.passes() for d in p.demand)
    if done.policy.lossless:
        assert done.lookups == rows, "not what the gates chose"
        assert done.accounts.hit_row()[5] >= rows * EXPERT
        assert not any(done.accounts.quality_row()[2:]), "a loss"
    if not done.core.routes:
        assert done.accounts.hit_row()[5] == rows * EXPERT
    assert done.core.state.peak + done.policy.gpu_bytes() <= setup.budget
    assert done.core.own_bytes == done.policy.gpu_bytes()

    again = run(variant.build(setup), routing, depth=depth)
    assert again.core.log == done.core.log
    assert again.core.digest() == done.core.digest()
    assert again.accounts == done.accounts

    core = Core(ready(variant.build(setup), routing), setup, FakeSignals(routing.signals))
    assert replay(done.core.log, core) == done.core.digest()
    assert core.state.slot == done.core.state.slot


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("variant", EVERY, ids=str)
def test_budget_accounts_determinism_and_clockless_replay(variant: Variant, seed: int) -> None:
    assert_keeps_the_rules(variant, seed)


@pytest.mark.parametrize("variant", EVERY, ids=str)
def test_the_declared_minimum_is_enough_and_is_enforced(variant: Variant) -> None:
    for seed, sizes in enumerate([(12, 12, 12), (12, 5, 30)]):
        routing, every = draw(seed, n_layers=variant.layers), (sizes * variant.layers)[: variant.layers]
        setup = replace(setup_of(routing, 10_000, chunks=2, costs=FAST), expert_bytes=every)
        least = variant.build(setup).min_budget()
        done = run(variant.build(replace(setup, budget=least)), routing)
        done.accounts.check()
        with pytest.raises(UserError, match=rf"^budget={least - 1}: .*{variant.name}.* {least} bytes \(\d+\.\d+ MB\)$"):
            variant.build(replace(setup, budget=least - 1))


@pytest.mark.parametrize("variant", EVERY, ids=str)
def test_facts_are_plain_the_same_again_and_decide_nothing(variant: Variant) -> None:
    """Of the train requests alone: nothing has been measured when they are asked for, and asking changes nothing."""
    routing, setup = everything(3, variant.layers)
    setup = variant.roomy(setup)
    told, untold = (ready(variant.build(setup), routing) for _ in range(2))
    facts = stated(told)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert stated(ready(variant.build(setup), routing)) == facts
    for policy in (told, untold):
        policy.wants_history = lambda: False  # type: ignore[method-assign]
    assert run(told, routing).core.digest() == run(untold, routing).core.digest()


def test_no_hash_seed_changes_a_decision() -> None:
    program = "import test_policy_contracts as t; t.print_digests()"
    outputs = set()
    for seed in ("0", "1"):
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        outputs.add(subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True).stdout)
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == len(EVERY)


def print_digests() -> None:
    tried = [(v, *everything(2, v.layers)) for v in EVERY]
    done = {str(v): run(v.build(v.roomy(s)), routing) for v, routing, s in tried}
    fitted = {str(v): stated(ready(v.build(v.roomy(s)), routing)) for v, routing, s in tried}
    print(json.dumps({name: (it.core.digest(), fitted[name]) for name, it in done.items()}))


@pytest.mark.parametrize("name", [n for n in registry.names() if not registry.find(n).clairvoyant])
def test_a_policy_has_a_yaml_with_its_parameters_and_defaults(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    given = yaml.safe_load(text)
    assert given.pop("name") == name
    assert given == registry.defaults(name)
    assert {k: type(v) for k, v in given.items()} == {k: type(v) for k, v in registry.defaults(name).items()}
    assert list(given) == list(registry.parameters(name))
    assert all(" # " in line for line in text.splitlines()[2:])


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_yaml_builds_a_policy(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    registry.build(given.pop("name"), setup_of(draw(0, n_layers=8), 10_000), given)


@pytest.mark.parametrize("name", registry.names())
def test_a_policy_says_what_it_is(name: str) -> None:
    policy = registry.find(name)
    text = inspect.getdoc(policy) if "__doc__" in vars(policy) else None
    assert text, f"{name} has no docstring"
    assert "O(" in text
    assert policy.clairvoyant or ("lossless" if policy.lossless else "lossy") in text.lower()


def test_the_witness_sees_a_broken_budget() -> None:
    routing, setup = everything(0)
    core = Witness(LRU(setup), setup, FakeSignals(routing.signals))
    core.state.slot[:] = b"\1" * len(core.state.slot)
    with pytest.raises(AssertionError):
        core.next_chunk()
