"""The host's threads: how many of torch's each has, what they die of, and that none is left."""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policies.lru import LRU
from real.runtime import compute
from real.runtime.backend import Backend, DeviceError, Staging
from real.runtime.hosted import HostedMachine
from real.runtime.offloaded import Offloaded
from real.runtime.runner import device_machine
from sim.check.synthetic import FlatHost
from sim.workload.signals import TraceSignals
from tests.real.runtime.rig import CPU, ROUTING, Host, Rig, follow, hosted, torch
from tests.traces.models.tiny import tiny


@pytest.fixture(scope="module")
def model() -> Offloaded:
    return Offloaded(tiny("olmoe", num_hidden_layers=3), CPU)


@pytest.fixture
def rig(model: Offloaded) -> Iterator[Rig]:
    """At its end no thread is left, torch has as many as before, and the model can be used again."""
    threads, before = torch.get_num_threads(), threading.active_count()
    made = hosted(Rig(model), 2)
    yield made
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before
    assert (torch.get_num_threads(), of_a_new_thread()) == (threads, threads)
    model.backend = Backend()
    follow(made, Host, 4, ROUTING).check()


def of_a_new_thread() -> int:
    """torch's number of threads in a thread that begins now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


# -- torch's threads ----------------------------------------------------------------------------------------------


# A number that is every thread's, so that the model computed with one worker's share.
@pytest.mark.parametrize(("whole", "workers", "each"), [(4, 1, 4), (4, 2, 2), (5, 2, 2), (1, 3, 1)])
def test_each_worker_has_its_share_of_torch_s_threads(
    whole: int, workers: int, each: int, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, expert, main = dict[int, int](), compute.Experts.expert, threading.get_ident()

    def noted(experts: Any, *given: Any) -> None:
        seen[threading.get_ident()] = torch.get_num_threads()
        time.sleep(1e-4)  # for the others to have their turn
        expert(experts, *given)

    monkeypatch.setattr(compute.Experts, "expert", noted)
    rig.host, before = FlatHost(1, None, workers), torch.get_num_threads()
    torch.set_num_threads(whole)
    try:
        machine = rig.machine(Host, 4)
        assert isinstance(machine, HostedMachine)
        assert machine.facts() | {"host_workers": workers, "host_threads_each": each} == machine.facts()
        with machine:
            assert (torch.get_num_threads(), of_a_new_thread()) == (whole, whole)
        ran = follow(rig, Host, 4, ROUTING).check()
    finally:
        torch.set_num_threads(before)
    assert main not in seen
    assert set(seen.values()) == {each}
    assert len(seen) <= workers
    assert len(seen) == workers or ran.accounts.host_lookups < 20


def test_who_places_nothing_has_no_such_threads(model: Offloaded, rig: Rig) -> None:
    for policy, workers in ((Host, 2), (LRU, None)):
        made = device_machine(model, policy(rig.setup(4)), TraceSignals(None, ()))
        assert isinstance(made, HostedMachine) is (workers is not None)
        assert made.facts().get("host_workers") == workers
        made.pool.free()


# -- what goes wrong ----------------------------------------------------------------------------------------------


class Broken(Backend):
    """A host that cannot; its copies are as ever."""

    def __init__(self, error: BaseException, at: int) -> None:
        self.error, self.left = error, at

    def staging(self) -> Staging:
        device = self

        class Failing(Staging):
            def fetch(self, rows: Any) -> Any:
                device.left -= 1
                if device.left == 0:
                    raise device.error
                return rows

        return Failing()


# A worker died of it, and the model waited for ever.
@pytest.mark.parametrize("at", [1, 5])
def test_an_expert_that_fails_is_named(at: int, rig: Rig) -> None:
    rig.model.backend = Broken(RuntimeError("DefaultCPUAllocator: not enough\nmemory"), at)
    said = r"^expert \d of layer \d failed on the host: DefaultCPUAllocator: not enough memory$"
    with pytest.raises(DeviceError, match=said):
        follow(rig, Host, 4, ROUTING)


def test_a_bug_keeps_its_type(rig: Rig) -> None:
    rig.model.backend = Broken(ZeroDivisionError("of ours"), 3)
    with pytest.raises(ZeroDivisionError, match="of ours"):
        follow(rig, Host, 4, ROUTING)


def test_a_worker_that_cannot_begin_ends_the_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Backend) -> Staging:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Backend, "staging", none)
    with pytest.raises(RuntimeError, match="out of memory"):
        follow(rig, Host, 4, ROUTING)
    monkeypatch.undo()


# Ctrl-C, as a signal's handler raises it, while the model waits for its host, or for its threads to begin.
@pytest.mark.parametrize("where", ["wait_for_host", "start"])
def test_an_interrupt_joins_the_threads(where: str, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, rang = threading.Condition.wait, []

    def interrupted(condition: Any, timeout: float | None = None) -> bool:
        caller, main = sys._getframe(1), threading.current_thread() is threading.main_thread()
        if main and caller.f_code.co_name == where and caller.f_locals["self"]._settled:
            rang.append(where)
            raise KeyboardInterrupt
        return waits(condition, timeout)

    class Late(Backend):
        """Of two workers the second is late."""

        asked = 0

        def staging(self) -> Staging:
            self.asked += 1
            time.sleep(0.02 * (self.asked % 2 == 0))
            return Staging()

    rig.model.backend, before = Late(), torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(threading.Condition, "wait", interrupted)
    for _ in range(20):  # a worker may be quicker than whoever would wait for it
        try:
            follow(rig, Host, 4, ROUTING)
        except KeyboardInterrupt:
            break
    monkeypatch.undo()
    assert rang
    assert (torch.get_num_threads(), of_a_new_thread()) == (4, 4)
    torch.set_num_threads(before)
