"""The machine's threads, on a device whose copies and compute end when they like."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from policies.api import Policy
from policies.lru import LRU
from real.runtime import machine
from real.runtime.backend import Backend
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from sim.core.accounts import PREDICTOR, Accounts
from tests.real.runtime.rig import CPU, NEW_TOKENS, PROMPTS, ROUTING, Rig, follow, serve, torch
from tests.real.runtime.shaky import Shaky, WatchedCore, WatchedMachine, WatchedPool
from tests.sim.machine.restless import Restless, Unruly
from tests.traces.models.tiny import E, tiny


class Hasty(Restless):
    """Predictions of every length, which cancel, evict and prefetch in a thread of their own."""

    def ask(self, may_block: bool) -> None:
        while self.random.random() < 0.3:
            self.tag += 1
            latency = self.random.choice([0, 1000, 50_000, 400_000])
            self.actions.predict(self.tag, latency, may_block and self.random.random() < 0.2)

    def note(self, what: str, *facts: object) -> None:
        return


@pytest.fixture(scope="module")
def model() -> Offloaded:
    return Offloaded(tiny("olmoe", num_hidden_layers=3), CPU)


@pytest.fixture
def whole(model: Offloaded) -> Any:
    rig = Rig(model)
    return follow(rig, LRU, rig.experts, ROUTING).check()


@pytest.fixture
def shake(model: Offloaded) -> Iterator[Any]:
    """Put a shaky device under the model; the plain one comes back."""
    devices = []

    def shaken(seed: int, depth: int, **kwargs: Any) -> Rig:
        model.backend = Shaky(seed, depth, **kwargs)
        devices.append(model.backend)
        return Rig(model, 1 + seed % 3, depth, WatchedCore, WatchedPool, WatchedMachine, seed)

    yield shaken
    model.backend = Backend()
    for device in devices:
        device.close()


# An expert computed before its last half is there or after its slot is another's; a fact told twice, or never.
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [LRU, Hasty, Unruly])
def test_nothing_depends_on_when_things_end(kind: type[Policy], seed: int, shake: Any, whole: Any) -> None:
    depth, others = 1 + seed % 2, threading.active_count()
    rig = shake(seed, depth)
    for held in (1, 6, rig.experts)[seed % 2 :]:
        ran = follow(rig, kind, held, ROUTING).check()
        assert ran.same_logits(whole), held
        assert rig.model.backend.most_under_way <= depth
        assert ran.core.state.peak <= held * rig.nbytes
    assert threading.active_count() <= others + 2  # of the shaky device, and of the machine none


@pytest.mark.parametrize("batch", [1, 4])
def test_nor_with_the_model_s_own_routing(batch: int, model: Offloaded, shake: Any) -> None:
    rig = Rig(model)
    expected = serve(rig, LRU, rig.experts, batch, prompts=PROMPTS[2:], new_tokens=NEW_TOKENS[2:]).check()
    shaken = shake(7, 2)
    for held in (2, 12):
        ran = serve(shaken, Hasty, held, batch, prompts=PROMPTS[2:], new_tokens=NEW_TOKENS[2:])
        assert ran.check().same_logits(expected), held


# -- the slots' table -------------------------------------------------------------------------------------------


class _Meanwhile(Backend):
    """While a table is sent to the device, something else happens."""

    def __init__(self) -> None:
        self.happens: Any = None
        self.sent = 0

    def upload(self, host: Any) -> Any:
        self.sent += 1
        happens, self.happens = self.happens, None
        if happens:
            happens()
        return host


# The table was marked as fresh after it had been read: what the copy thread changed meanwhile was never seen.
def test_a_slot_that_is_given_while_the_table_is_read_is_in_the_next_one(model: Offloaded) -> None:
    device = _Meanwhile()
    pool = Pool(model.store, 5 * model.store.layout.nbytes, 1, device)
    pool.start_copy(2).wait()
    device.happens = lambda: pool.start_copy(4).wait()
    pool.table(0)
    assert pool.table(0).tolist() == [-1, -1, 0, -1, 1, -1, -1, -1]
    pool.evict(2)
    pool.start_copy(9).wait()
    assert [pool.table(0)[2].item(), pool.table(1)[1].item()] == [-1, 0]


# The whole table was sent whenever a slot of any layer had changed.
def test_a_table_is_sent_only_where_it_has_changed(model: Offloaded) -> None:
    device = _Meanwhile()
    pool = Pool(model.store, 5 * model.store.layout.nbytes, 1, device)
    for layer in (0, 1, 0, 1):
        pool.table(layer)
    assert device.sent == 2
    pool.start_copy(9).wait()
    pool.start_copy(9).wait()  # its second chunk, as it were: the slot is the same
    for layer in (0, 1, 1, 0):
        pool.table(layer)
    assert device.sent == 3
    pool.evict(9)
    assert pool.table(1)[1].item() == -1
    assert pool.table(0).tolist() == [-1] * E
    assert device.sent == 4


# -- what waits for what ----------------------------------------------------------------------------------------


# A blocking prediction kept the lock: the link stood still until it was over.
def test_copies_go_on_while_a_prediction_blocks(shake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they take: the prediction's hour passes at once, when all that was prefetched has arrived."""
    there, hour = threading.Event(), 3600 * 10**9

    class Foresight(LRU):
        """A prediction before the first gate, during which all is prefetched."""

        def on_step(self, step: Any) -> None:
            super().on_step(step)
            if step.number == 1:
                self.missing = set(range(self.setup.n_layers * self.setup.n_experts))
                for x in self.missing:
                    self.actions.prefetch(x, 0.0)
                self.actions.predict(1, hour, True)

        def on_complete(self, expert: int) -> None:
            self.missing.discard(expert)
            if not self.missing:
                there.set()

    class Jumping(WatchedMachine):
        """Its clock jumps over what it sleeps."""

        def block(self, predictions: Any) -> None:
            monkeypatch.setattr(machine, "time", SimpleNamespace(sleep=self.jump))
            super().block(predictions)

        def jump(self, seconds: float) -> None:
            assert there.wait(60), "the link stands still"
            self._zero -= round(seconds * 1e9)

    rig = replace(shake(1, 1, slow_s=1e-4), chunks=1, machine_type=Jumping)
    ran = follow(rig, Foresight, rig.experts, ROUTING).check()
    begin, end, blocking = ran.machine.timeline.predictions
    assert blocking
    assert ran.accounts.stall_row()[PREDICTOR] == end - begin >= hour
    row = ran.accounts.hit_row()
    assert row[3] == row[0], "what was prefetched meanwhile is there"


class Endless(LRU):
    """Always has something to prefetch."""

    def on_complete(self, expert: int) -> None:
        experts = self.setup.n_layers * self.setup.n_experts
        for step in range(1, experts):
            if self.actions.prefetch((expert + step) % experts, 0.0):
                break


class Patient(WatchedMachine):
    """Waits a little when the accounts are closed."""

    words = 0

    def finish(self) -> Accounts:
        accounts = super().finish()
        self.words = len(self.core.log)
        time.sleep(0.01)
        return accounts


# Copies for nobody, after the last step, were counted into the closed accounts, and kept the machine from ending.
def test_nothing_is_told_after_the_end(shake: Any) -> None:
    rig = replace(shake(2, 2), machine_type=Patient)
    ran = follow(rig, Endless, 10, ROUTING).check()
    assert ran.accounts.issued > 10
    assert len(ran.core.log) == ran.machine.words
    assert ran.accounts.link_busy_ns <= ran.accounts.end_ns - ran.accounts.start_ns


def test_the_poison_is_one() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.full((8,), 0xFF, dtype=torch.uint8).view(dtype).isnan().all()
