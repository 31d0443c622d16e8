"""Who listens to a core, its log above all; what the digest holds. Above each law, the bug that it prevents."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from policies.lru import LRU
from sim.core.core import Core
from sim.core.host_memory import HostTier
from sim.core.log import OPERATIONS, STEP_END, entries, record
from sim.core.several import core_of
from sim.core.state import CoreError
from sim.machine.machine import Machine
from tests.sim.machine.cases import FlatDisk, NoSignals, decode, make_pass, make_setup, simulate, some_passes
from tests.sim.machine.cases import record as played
from tests.sim.machine.restless import Bypass, Restless, Told


# A log that holds what a fact has led to: it would differ where nothing yet was decided otherwise.
def test_who_listens_hears_before_the_core_acts_the_last_one_first() -> None:
    setup = make_setup([10], 4, 10)
    core, heard = Core(LRU(setup), setup, NoSignals()), list[object]()
    core.listen("gate", lambda layer, *_: heard.append((layer, core.event.layer, sum(core.state.pinned))))
    core.listen("gate", lambda *_: heard.append("first"))
    core.listen("evict", lambda x: heard.append((x, core.state.slot[x])))
    Machine(core, setup.costs).run([], decode([[[0]], [[1]]], 4))  # type: ignore[arg-type]
    assert heard == ["first", (0, -1, 0)] * 2 + [(0, 1)]


# Words that do not say what was told: every operation is read as it was written.
@pytest.mark.parametrize(("gpus", "disk"), [(1, None), (2, None), (1, FlatDisk())])
def test_a_log_is_read_as_it_was_written(gpus: int, disk: FlatDisk | None) -> None:
    homes = [x % gpus for x in range(10)]
    setup = replace(make_setup([10, 20], 5, 60, chunks=2), gpus=gpus, homes=homes if gpus > 1 else ())
    tier, reads = (None, None) if disk is None else (HostTier(60), disk.reads(setup))
    core, told = core_of(LRU(setup), setup, NoSignals(), tier), list[tuple[int, tuple[object, ...]]]()
    for op, name in enumerate(OPERATIONS):
        if hasattr(core, name):
            core.listen(name, lambda *operands, op=op: told.append((op, operands)))
    record(core)
    passes = some_passes(2, 5, 8)
    step = make_pass([[[0, 1], [2]], [[1, 3], [0]]], 5)  # a mixed one: the first row is of a prompt
    passes.append(replace(step, prefill=True, prompt_rows=(1, 0), prompt_tokens=[[1, 1, 0], [1, 0]]))
    Machine(core, setup.costs, reads=reads).run(passes[:2], passes[2:])  # type: ignore[arg-type]
    untold = {"prediction", "host_done", "next_host"}
    untold |= {"next_chunk_on", "next_expert_on"} if gpus == 1 else {"next_chunk", "next_expert"}
    untold |= {"read_done", "next_read"} if disk is None else set()
    assert {OPERATIONS[op] for op, _ in told} == {*OPERATIONS} - untold
    assert json.dumps(list(entries(core.log))) == json.dumps(told)


# A clock that runs backwards, in whatever machine drives the core.
def test_the_clock_is_monotone() -> None:
    setup = make_setup([10], 4, 40)
    core = record(Core(Bypass(setup), setup, NoSignals()))
    core.prediction(0, 5)
    core.prediction(1, 5)
    with pytest.raises(CoreError, match="4 ns came after one at 5 ns"):
        core.prediction(2, 4)


@pytest.mark.parametrize(("words", "message"), [([STEP_END], "in the middle of a fact"), ([99, 0], "operation 99")])
def test_a_log_that_is_cut_or_none_is_an_error(words: list[int], message: str) -> None:
    with pytest.raises(CoreError, match=message):
        list(entries(words))


# -- the digest -------------------------------------------------------------------------------------------------


class Lowest(Told):
    """Evicts the lowest number."""

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next(filter(self.view.evictable, range(self.setup.n_layers * self.setup.n_experts)), None)


# A digest that would pass two machines off as agreeing when they do not.
def test_the_digest_differs_when_a_decision_differs() -> None:
    passes = some_passes(2, 5, 20)
    setup = make_setup([10, 10], 5, 50)
    _, lru = played(LRU, setup, passes)
    _, again = played(LRU, setup, passes)
    _, other = played(Lowest, setup, passes)
    assert lru.digest() == again.digest() != other.digest()


# Evictions left out of the digest: here they alone differ, in the very last one.
def test_the_digest_holds_the_evictions() -> None:
    passes = decode([[[0]], [[1]], [[0]], [[2]]], 3)  # the victim of 2 is 1 for LRU, 0 for the other
    setup = make_setup([10], 3, 20)
    by_lru, lru = played(LRU, setup, passes)
    by_other, other = played(Lowest, setup, passes)
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
        given = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", "from tests.sim.core.test_log import fingerprint as f; print(f(), end='')"]
        other = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True)
        assert other.stdout == fingerprint(), hash_seed
