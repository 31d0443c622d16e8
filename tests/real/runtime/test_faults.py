"""What goes wrong ends with one clear error on the thread that runs the model, and gives everything back."""

import gc
import mmap
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from policies.api import LayerEvent
from policies.lru import LRU
from real.runtime import pool as pools
from real.runtime.backend import Backend, DeviceError
from real.runtime.host import Host
from real.runtime.live import Live
from real.runtime.offloaded import TAKEN, Offloaded
from real.runtime.pool import Pool
from tests.real.runtime.rig import CPU, ROUTING, Rig, follow, torch
from tests.real.runtime.shaky import Shaky
from tests.traces.models.tiny import E, tiny
from traces.kit.errors import UserError


@pytest.fixture
def model() -> Offloaded:
    return Offloaded(tiny("olmoe", num_hidden_layers=3), CPU)


class Remembered(Pool):
    """Pools that are to be gone."""

    made: list[Pool] = []  # noqa: RUF012 - emptied by each test

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


@pytest.fixture
def rig(model: Offloaded) -> Iterator[Rig]:
    """At its end: no thread is left, no memory of the pool's, even while the error is held, and the model says so."""
    Remembered.made.clear()
    before = threading.active_count()
    yield Rig(model, pool_type=Remembered)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before
    assert Remembered.made
    assert all(pool.block.untyped_storage().nbytes() == 0 for pool in Remembered.made)
    with pytest.raises(UserError, match="experts have been taken into host memory; allowed: passes within"):
        model.model(input_ids=torch.tensor([[1, 2]]))
    model.backend = Backend()
    follow(Rig(model), LRU, 4, ROUTING).check()  # what the model had is all still there
    Remembered.made.clear()


# -- no room ----------------------------------------------------------------------------------------------------


# Weights that were in host memory stayed there, held by a model that could not be used.
def test_host_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    class Watched(mmap.mmap):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            taken.append(weakref.ref(self))

    model, rooms = tiny("olmoe"), iter([1 << 30, 1 << 30, 0])
    monkeypatch.setattr(mmap, "mmap", Watched)
    with pytest.raises(UserError, match="host memory"):
        Offloaded(model, CPU, Host(free=lambda: next(rooms)))
    gc.collect()
    assert len(taken) == 3, "two layers', and the third, of which nothing was touched"
    assert not any(mapping() for mapping in taken)
    whole = Offloaded(tiny("olmoe"), CPU)
    assert len(taken) == 7
    whole.store.close()
    gc.collect()
    assert not any(mapping() for mapping in taken), "while the model is still held"


def test_a_device_without_room_for_the_slots(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(rig, LRU, 4, ROUTING)
    empty = torch.empty

    def refuse(*size: Any, **kwargs: Any) -> Any:
        if kwargs.get("dtype") == torch.uint8:
            raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate 2.00 GiB.")
        return empty(*size, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pools.torch, "empty", refuse)
        said = rf"^4 experts of {rig.nbytes} bytes do not fit on cpu: CUDA out of memory. Tried .*; allowed: a budget"
        with pytest.raises(UserError, match=said):
            follow(rig, LRU, 4, ROUTING)


# -- in the middle ----------------------------------------------------------------------------------------------


class Refusing(Shaky):
    def start_copy(self, target: Any, source: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


# The copy thread died of it, and the model waited for ever.
@pytest.mark.parametrize(("kind", "number"), [(Refusing, 0), *((Shaky, number) for number in (0, 1, 7))])
def test_a_copy_that_fails(kind: type[Shaky], number: int, rig: Rig) -> None:
    rig.model.backend = device = kind(0, fail_at=number)
    said = r"the copy of expert \d of layer \d failed on cpu: CUDA error: an illegal memory access"
    with pytest.raises(DeviceError, match=said) as caught:
        follow(rig, LRU, 4, ROUTING)
    device.close()
    assert isinstance(caught.value, UserError), "which a command tells without a traceback"


# Nobody waited for it any more: the run was taken for a good one.
def test_a_copy_that_fails_at_the_very_end(rig: Rig) -> None:
    class Last(LRU):
        steps = 0

        def on_gate(self, event: LayerEvent) -> None:
            super().on_gate(event)
            self.steps += event.layer == 2
            if self.steps == len(ROUTING.steps):
                missing = sum(not self.view.complete(x) for x in event.demand)
                rig.model.backend.fail_at = rig.model.backend.copies + missing
                for x in range(3 * E):
                    self.actions.prefetch(x, 0.0)

    rig.model.backend = device = Shaky(0, slow_s=0.005)
    with pytest.raises(DeviceError, match=r"the copy of expert \d of layer \d failed"):
        follow(rig, Last, 10, ROUTING)
    device.close()


@pytest.mark.parametrize("where", ["gate", "copy", "prediction"])
def test_an_error_of_a_policy(where: str, rig: Rig) -> None:
    """A bug of ours keeps its type and its traceback, whatever thread it is in."""

    class Broken(LRU):
        def on_gate(self, event: LayerEvent) -> None:
            super().on_gate(event)
            if where == "gate":
                raise ZeroDivisionError("of a policy")
            if where == "prediction":
                self.actions.predict(1, 1000, False)

        def on_complete(self, expert: int) -> None:
            if where == "copy":
                raise ZeroDivisionError("of a policy")

        def on_prediction(self, tag: int) -> None:
            raise ZeroDivisionError("of a policy")

    rig.model.backend = device = Shaky(0)
    with pytest.raises(ZeroDivisionError, match="of a policy"):
        follow(rig, Broken, 4, ROUTING)
    device.close()


@pytest.mark.parametrize("where", ["start", "gate", "wait", "model"])
def test_an_interrupt(where: str, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(LRU):
        def on_gate(self, event: LayerEvent) -> None:
            super().on_gate(event)
            if where == "gate" and event.layer == 2:
                raise KeyboardInterrupt

    rig.model.backend = device = Shaky(0)
    if where in ("start", "wait"):  # as a signal's handler does, while the main thread waits
        waits, names = threading.Condition.wait, {"start": "start", "wait": "wait_for_expert"}

        def interrupted(condition: Any, timeout: float | None = None) -> bool:
            callers = {sys._getframe(depth).f_code.co_name for depth in (1, 2, 3)}
            asked = callers & {*names.values()} == {names[where]}
            if asked and threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return waits(condition, timeout)

        monkeypatch.setattr(threading.Condition, "wait", interrupted)
    if where == "model":
        norm = rig.model.model.model.norm
        monkeypatch.setattr(norm, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        follow(rig, Interrupting, 4, ROUTING)
    monkeypatch.undo()
    device.close()


class Interrupt(BaseException):
    """An alarm, or Ctrl-C."""


# An alarm in the cleanup left the pool's memory taken for good, or gave it back under the copy thread's feet.
@pytest.mark.parametrize("where", ["join", "model", "device"])
def test_an_interrupt_while_all_is_given_back_keeps_nothing(
    where: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rang = rig.model, []

    def once(owner: Any, name: str, wanted: Any = lambda *args: True) -> None:
        usual = getattr(owner, name)

        def ringing(*args: Any, **more: Any) -> Any:
            if not rang and wanted(*args):
                rang.append(name)
                raise Interrupt
            return usual(*args, **more)

        monkeypatch.setattr(owner, name, ringing)

    machine = rig.machine(LRU, 6)
    known = set(ALL_EXPERTS_FUNCTIONS.valid_keys())
    arm = {
        "join": lambda: once(threading.Thread, "join"),
        "model": lambda: once(model.model, "set_experts_implementation", lambda name: name == TAKEN),
        "device": lambda: once(model.backend, "synchronize"),
    }
    with pytest.raises(Interrupt), model.attached(machine, Live(model.moe, frozenset())):
        arm[where]()
    assert rang
    assert machine._threads == []
    assert set(ALL_EXPERTS_FUNCTIONS.valid_keys()) == known
    monkeypatch.undo()
    follow(rig, LRU, 6, ROUTING).check()
