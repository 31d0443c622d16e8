"""Laws of decisions and of events: what the digest holds, and that facts alone decide. Above each, its bug."""

import os
import subprocess
import sys

import pytest

from policies.api import Policy
from policies.lru import LRU
from sim.core.core import Core
from sim.machine.machine import Machine
from tests.sim.machine.cases import (
    NoSignals,
    decode,
    make_setup,
    record,
    simulate,
    some_passes,
)
from tests.sim.machine.restless import Bypass, Restless


class Lowest(Bypass):
    """Keeps what it has, and evicts the lowest number."""

    name = "lowest"

    def keep(self, expert: int) -> bool:
        return True

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next(filter(self.view.evictable, range(self.setup.n_layers * self.setup.n_experts)), None)


# A digest that would pass two machines off as agreeing when they do not.
def test_the_digest_differs_when_a_decision_differs() -> None:
    passes = some_passes(2, 5, 20)
    setup = make_setup([10, 10], 5, 50)
    _, lru = record(LRU, setup, passes)
    _, again = record(LRU, setup, passes)
    _, other = record(Lowest, setup, passes)
    assert lru.digest() == again.digest() != other.digest()


# Evictions left out of the digest: here they alone differ, in the very last one.
def test_the_digest_holds_the_evictions() -> None:
    passes = decode([[[0]], [[1]], [[0]], [[2]]], 3)  # the victim of 2 is 1 for LRU, 0 for the other
    setup = make_setup([10], 3, 20)
    by_lru, lru = record(LRU, setup, passes)
    by_other, other = record(Lowest, setup, passes)
    assert by_lru == by_other
    assert lru.digest() != other.digest()


def fingerprint() -> str:
    """Accounts and digests of some runs, to compare between processes."""
    found = []
    for seed in range(5):
        setup = make_setup([10, 17, 23], 6, 120, chunks=2, seed=seed)
        accounts, core = simulate(Restless(setup), setup, some_passes(3, 6, 20, seed=seed), depth=2)
        found.append((repr(accounts), core.digest()))
    return repr(found)


# Decisions in the order of a set or a dict of objects: another process, another result (rule 10).
def test_the_result_does_not_depend_on_the_hash_seed() -> None:
    for hash_seed in ("0", "1", "4711"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [
            sys.executable,
            "-c",
            "from tests.sim.machine.test_laws_of_decisions import fingerprint as f; print(f(), end='')",
        ]
        other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert other.stdout == fingerprint(), hash_seed


# An event for each copy creeps back in, and the machine is ten times slower (docs/design.md, The machine model).
@pytest.mark.parametrize("policy", [LRU, Bypass, Restless])
def test_simpy_sees_one_event_per_step(policy: type[Policy]) -> None:
    n_layers, steps = 4, 25
    setup = make_setup([10] * n_layers, 6, 70, chunks=3)
    machine = Machine(Core(policy(setup), setup, NoSignals()), setup.costs, depth=2)  # type: ignore[arg-type]
    step, events = machine.env.step, 0

    def counted() -> None:
        nonlocal events
        step()
        events += 1  # not where the schedule was empty

    machine.env.step = counted  # type: ignore[method-assign]
    machine.run([], some_passes(n_layers, 6, steps))
    processes = 2  # warm-up and measured, each with a beginning and an end
    assert events - 2 * processes == steps
