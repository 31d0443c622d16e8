"""Policies tried on a synthetic machine, watched at every answer; and the laws that every policy owes.

Causality, budget, accounts, determinism, a true minimum, and to say what it is: each law raises AssertionError with
what was broken.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies import registry
from policies.api import Policy, Setup
from policies.bounds.future import Clairvoyant, Future
from sim.check.caches import assert_orders_hold
from sim.check.serving import by_class, classes, served
from sim.check.synthetic import PLAIN, FakeSignals, FlatCosts, Routing, World, draw, setup_of, some_history
from sim.check.variants import Variant
from sim.check.witness import SeveralWitness, VersionedWitness
from sim.check.witness import Witness as Witness
from sim.core.accounts import Accounts
from sim.core.acting import stated
from sim.core.core import Core
from sim.core.log import replay
from sim.core.several import core_of
from sim.machine.machine import Machine
from sim.prices.placement import WHOLE, Spread
from traces.kit.errors import UserError


@dataclass
class Run:
    """What one replay left behind."""

    policy: Policy
    core: Witness
    accounts: Accounts

    @property
    def hits(self) -> int:
        """Lookups that were complete."""
        return self.accounts.hit_row()[3]

    @property
    def lookups(self) -> int:
        """Members of all demand sets."""
        return self.accounts.hit_row()[0]


def ready(policy: Policy, routing: Routing) -> Policy:
    """Give a policy what it may ask for before the first fact: train requests, the future."""
    if policy.wants_history():
        policy.fit(some_history(policy.setup, routing.world))
    if isinstance(policy, Clairvoyant):
        n_all = policy.setup.n_layers * policy.setup.n_experts
        policy.foresee(Future.of((d for p in routing.passes() for d in p.demand), n_all))
    return policy


def run(policy: Policy, routing: Routing, *, depth: int = 1, core_type: type[Core] | None = None) -> Run:
    """Replay a routing; AssertionError if the policy breaks a rule on the way."""
    usual = VersionedWitness if policy.setup.versions else Witness
    core_type = core_type or (SeveralWitness if policy.setup.gpus > 1 else usual)
    core: Any = core_type(ready(policy, routing), policy.setup, FakeSignals(routing.signals))
    passes, setup = routing.passes(), policy.setup
    costs: Any = setup.costs
    machine = Machine(core, costs, depth=depth, lanes=setup.lanes, peer_ns=costs.copy_ns)
    accounts = machine.run((), passes)
    if passes != routing.passes():  # the next cell of a sweep reads the same lists
        raise AssertionError("it changed the demand that it was shown")
    return Run(policy, core, accounts)


EXPERT = 12  # bytes
SLOW = FlatCosts(170_000, 30_000, 5_000, 30_000, 7_000, 3_000)  # the link is the bottleneck
FAST = replace(SLOW, copy=20_000, expert=90_000)  # prefetches arrive in time; predictions take microseconds too


def everything(seed: int, world: World = PLAIN) -> tuple[Routing, Setup]:
    """A routing and a machine; other seeds have other budgets, chunks and prices."""
    costs = FAST if seed % 2 else SLOW
    routing = draw(seed, n_layers=world.layers + seed % 2, decode=10, world=world)
    return routing, setup_of(routing, EXPERT * (5 + seed), chunks=1 + seed % 3, costs=costs)


def change_after(routing: Routing, step: int, layer: int, seed: int, *, pregated: bool = False) -> Routing:
    """Another trace, alike until the gate of ``layer`` in ``step`` (-1: until the step begins).

    ``pregated``: what that layer's own experts are stays, as the gate before it, if there is one, has said it.
    """
    rng = np.random.default_rng(seed)
    _, first, rows = routing.steps[step]
    _, n_layers, top_k = routing.ids.shape
    other = draw(seed, n_layers, routing.n_experts, top_k, decode=60, world=routing.world)
    late = np.zeros((len(routing.ids), routing.ids.shape[1]), bool)
    late[first + rows :] = True
    late[first : first + rows, max(layer, 0) :] = True
    signals = {}
    for name, old in routing.signals.items():
        new = other.signals[name][rng.integers(0, len(other.ids), len(old))]
        if name == "expert_ids" and pregated and layer > 0:
            known = late.copy()
            known[first : first + rows, layer] = False
            signals[name] = np.where(known[..., None], new, old)
        elif old.ndim > 2:
            signals[name] = np.where(late.reshape(*late.shape, *[1] * (old.ndim - 2)), new, old)
        else:  # known when the step begins
            begin = first if layer < 0 else first + rows
            signals[name] = np.concatenate([old[:begin], new[begin:]])
    return Routing(signals["expert_ids"], routing.steps, routing.n_experts, signals, routing.world)


def assert_causal(
    make: Callable[[Setup, Routing], Policy], seed: int, world: World = PLAIN, *, moments: int = 4
) -> None:
    """Whatever is decided before t is the same when everything after t is changed; for so many t.

    A policy of a modified model knows one layer's experts more, within a pass, and nothing else.
    """
    routing, setup = everything(seed, world)
    policy = make(replace(setup, budget=10_000), routing)
    setup = replace(setup, budget=max(setup.budget, policy.min_budget()), lanes=1 + seed % 3)
    before = run(make(setup, routing), routing).core
    rng = np.random.default_rng(seed)
    for i in range(2 * (setup.n_layers + 1) if policy.modified else moments):
        step, layer = int(rng.integers(1, len(routing.steps))), int(rng.integers(-1, setup.n_layers))
        if policy.modified:  # its window is narrow: each layer has its turn
            layer = i % (setup.n_layers + 1) - 1
        changed = change_after(routing, step, layer, seed + 1000, pregated=policy.modified)
        after = run(make(setup, changed), changed).core
        until = next(i for i, s in enumerate(before.snapshots) if (s.step, s.layer) == (step + 1, layer))
        then = before.snapshots[until]
        alike = then == after.snapshots[until] and before.log[: then.told] == after.log[: then.told]
        _hold(alike, f"decided before step {step}, layer {layer}, with knowledge of later")


def spread(setup: Setup, seed: int) -> Setup:
    """The same experts on two to four GPUs, which have a third more memory together."""
    placed = Spread(WHOLE[seed % len(WHOLE)], min(2 + seed % 3, setup.n_layers))
    homes = placed.homes(setup.n_layers, setup.n_experts)
    return replace(setup, gpus=placed.gpus, homes=homes, budget=setup.budget * 4 // 3)


def assert_spreads(variant: Variant, seed: int) -> None:
    """With experts on several GPUs it keeps the rules as well, or says in a line why it cannot."""
    setup = spread(everything(seed, variant.world)[1], seed)
    try:
        variant.build(replace(setup, budget=10**9))
    except UserError as error:
        refused = re.fullmatch(rf"policy={variant.name}\W.*GPUs: .+; allowed: .*hardware.gpus=1.*", str(error))
        _hold(refused is not None, f"refuses several GPUs, but not in so many words: {error}")
        return
    roomy = variant.roomy(setup)
    assert_keeps_the_rules(variant, seed, roomy)
    least = variant.build(roomy).min_budget()
    run(variant.build(replace(setup, budget=least)), everything(seed, variant.world)[0]).accounts.check()


def assert_serves(variant: Variant, seed: int) -> None:
    """It keeps the rules where passes mix prompts and output of several requests, too."""
    routing = served(seed, variant.world)
    done = assert_keeps_the_rules(variant, seed, routing=routing)
    if done.policy.lossless:
        _hold(by_class(done.accounts) == classes(routing.passes()), "lookups are not of those whose rows made them")


def assert_keeps_the_rules(
    variant: Variant, seed: int, setup: Setup | None = None, routing: Routing | None = None
) -> Run:
    """Budget, accounts, determinism, clockless replay; a lossless policy computes what the gates chose.

    Of one with versions, the budget of each pool, and the accounts by version. Returns the run.
    """
    plain, usual = everything(seed, variant.world)
    if routing is None:
        routing = plain
    else:
        n_layers = routing.ids.shape[1]
        others = {dtype: (sizes[0],) * n_layers for dtype, sizes in usual.others.items()}
        usual = replace(usual, n_layers=n_layers, expert_bytes=(EXPERT,) * n_layers, others=others)
    depth = 1 + seed % 2
    setup = replace(setup or variant.roomy(usual), lanes=1 + seed // 2 % 3)
    done = run(variant.build(setup), routing, depth=depth)  # the witness checks the budget at every answer
    done.accounts.check()
    if isinstance(done.core, VersionedWitness):
        done.core.compare(done.accounts)
    rows = sum(len(set(d)) for p in routing.passes() for d in p.demand)
    nbytes = done.accounts.hit_row()[5]
    if done.policy.lossless:
        _hold(done.lookups == rows, "not what the gates chose")
        _hold(nbytes >= rows * EXPERT, "fewer bytes were demanded than the gates chose")
        _hold(not any(done.accounts.quality_row()[2:]), "a loss")
    if not done.core.routes:
        _hold(nbytes == rows * EXPERT, "other bytes were demanded than the gates chose")
    own = done.policy.gpu_bytes()
    _hold(done.core.state.peak + own <= setup.budget, "more bytes than the budget")
    _hold(done.core.own_bytes == own, "what it keeps on the GPU itself has changed on the way")

    again = run(variant.build(setup), routing, depth=depth)
    same = again.core.log == done.core.log and again.core.digest() == done.core.digest()
    _hold(same and again.accounts == done.accounts, "another answer to the same question")

    fresh = ready(variant.build(setup), routing)
    core = core_of(fresh, fresh.setup, FakeSignals(routing.signals))
    _hold(replay(done.core.log, core) == done.core.digest(), "decided otherwise where there was no clock")
    _hold(core.state.slot == done.core.state.slot, "decided otherwise where there was no clock")
    if routing is plain:
        assert_orders_hold(lambda given: ready(variant.build(given), plain), plain, setup)
    return done


def assert_minimum(variant: Variant) -> None:
    """The declared minimum is enough, and one byte less is refused by name; also with layers of unequal sizes."""
    for seed, sizes in enumerate([(12, 12, 12), (12, 5, 30)]):
        world = variant.world
        routing, every = draw(seed, n_layers=world.layers, world=world), (sizes * world.layers)[: world.layers]
        setup = replace(setup_of(routing, 10_000, chunks=2, costs=FAST), expert_bytes=every)
        least = variant.build(setup).min_budget()
        run(variant.build(replace(setup, budget=least)), routing).accounts.check()
        try:
            variant.build(replace(setup, budget=least - 1))
        except UserError as error:
            form = rf"budget={least - 1}: .*{variant.name}.* {least} bytes \(\d+\.\d+ MB\)"
            _hold(re.fullmatch(form, str(error)) is not None, f"refused, but not by name: {error}")
        else:
            raise AssertionError(f"{least - 1} bytes were accepted, and {least} are declared")


def assert_decided(variant: Variant) -> None:
    """What it states is of the train requests alone: plain JSON, the same again, and asking changes nothing."""
    routing, setup = everything(3, variant.world)
    setup = variant.roomy(setup)
    told, untold = (ready(variant.build(setup), routing) for _ in range(2))
    decided = stated(told)
    _hold(json.loads(json.dumps(decided, allow_nan=False)) == decided, "what it states is not plain JSON")
    _hold(stated(ready(variant.build(setup), routing)) == decided, "what it states is another, asked again")
    for policy in (told, untold):
        policy.wants_history = lambda: False  # type: ignore[method-assign]
    _hold(run(told, routing).core.digest() == run(untold, routing).core.digest(), "to be asked changed it")


def assert_says_what_it_is(name: str) -> None:
    """A docstring of its own with the idea, the complexity, and the class of its output."""
    policy = registry.find(name)
    text = vars(policy)["__doc__"]  # its own: what it inherits speaks of another
    if not text:
        raise AssertionError(f"{name} has no docstring")
    _hold("O(" in text, "its docstring does not say its complexity, O(...)")
    kind = policy.output()
    _hold(policy.clairvoyant or kind in text.lower(), f"its docstring does not say that it is {kind}")


def digests(variants: Iterable[Variant]) -> dict[str, Any]:
    """What each decides and states, for comparison between processes."""
    found = {}
    for variant in variants:
        routing, setup = everything(2, variant.world)
        setup = variant.roomy(setup)
        decided = stated(ready(variant.build(setup), routing))
        found[str(variant)] = [run(variant.build(setup), routing).core.digest(), decided]
    return found


def _hold(true: bool, otherwise: str) -> None:
    """As ``assert``, which ``python -O`` would leave out."""
    if not true:
        raise AssertionError(otherwise)
