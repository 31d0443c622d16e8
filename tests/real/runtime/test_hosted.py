"""Experts that the host computes on a device: the same bits, whoever computes them and whenever it ends."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from policies.api import LayerEvent, Step
from policies.fiddler import Fiddler
from policies.lru import LRU
from policies.static_split import StaticSplit
from real.runtime.backend import Backend, Staging
from real.runtime.hosted import HostedMachine
from real.runtime.offloaded import Offloaded
from sim.check.laws import ready
from sim.check.synthetic import FlatHost
from sim.core.accounts import COMPLETE, LOOKUPS
from sim.core.log import EXPERT, GATE, HOST, NEXT_HOST, entries
from tests.real.runtime.rig import CPU, PROMPTS, ROUTING, All, Host, Ran, Rig, Split, follow, hosted, serve, torch
from tests.real.runtime.shaky import Shaky, WatchedCore, WatchedMachine, WatchedPool
from tests.sim.machine.restless import Placing
from tests.traces.models.tiny import E, tiny


@pytest.fixture(scope="module")
def rig() -> Rig:
    return hosted(Rig(Offloaded(tiny("olmoe", num_hidden_layers=3), CPU), chunks=2))


@pytest.fixture(scope="module")
def whole(rig: Rig) -> Ran:
    return follow(replace(rig, machine_type=Rig.machine_type, host=None), LRU, rig.experts, ROUTING).check()


def placed(ran: Ran) -> list[int]:
    """What the host has computed, in the order in which it was told."""
    return [told[0] for op, told in entries(ran.core.log) if op == HOST]


# -- outputs ----------------------------------------------------------------------------------------------------


# A row of the host's left out of the sum, or summed in another order; weights of another expert; a bias forgotten.
@pytest.mark.parametrize(("dtype", "policy"), [(torch.float32, Placing), (torch.bfloat16, Host)], ids=str)
def test_logits_do_not_depend_on_who_computes(family: str, dtype: Any, policy: Any) -> None:
    plain = Rig(Offloaded(tiny(family).to(dtype), CPU))
    given: dict[str, Any] = {"prompts": PROMPTS[4:], "new_tokens": (4, 3), "batch": 2}
    expected = serve(plain, All, plain.experts, **given).check()
    for held in (2,) if dtype is torch.float32 else (plain.experts // 2,):
        ran = serve(hosted(plain, 2), policy, held, **given).check()
        assert placed(ran), policy
        assert ran.same_logits(expected), policy
        assert ran.made == expected.made


@pytest.mark.parametrize("policy", [Fiddler, partial(Fiddler, rule="code"), StaticSplit], ids=str)
def test_nor_do_they_under_the_shipped_ones(policy: Any, rig: Rig, whole: Ran) -> None:
    for held in (rig.experts // 4, rig.experts // 2, rig.experts):
        ran = follow(rig, lambda setup: ready(policy(setup), ROUTING), held, ROUTING).check()
        assert ran.same_logits(whole), held
        assert len(placed(ran)) == ran.accounts.host_lookups
        if held < rig.experts // 2:
            assert placed(ran)


def test_with_the_grouped_kernel_each_expert_is_computed_once(whole: Ran) -> None:
    """All are complete, and some are the host's nevertheless: the kernel that takes all of a layer does not run."""
    model = Offloaded(tiny("olmoe", num_hidden_layers=3), CPU, exact=False)

    class Filled(Split):
        def on_step(self, step: Step) -> None:
            super().on_step(step)
            for x in range(3 * E):
                self.actions.prefetch(x, 0.0)

    ran = follow(hosted(Rig(model)), Filled, 3 * E, ROUTING).check()
    assert ran.accounts.hit_row()[COMPLETE] > ran.accounts.hit_row()[LOOKUPS] // 2
    assert ran.same_logits(whole)


# -- whenever things end ----------------------------------------------------------------------------------------


class WatchedHost(WatchedMachine, HostedMachine):
    """Both."""


class Tardy(Shaky):
    """The host takes its time, too. Its rows are fetched only by a thread that has waited for what computes them."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.waited: set[int] = set()

    def mark(self) -> Any:
        ticket = super().mark()
        wait = ticket.wait

        def noted() -> None:
            wait()
            self.waited.add(threading.get_ident())

        ticket.wait = noted  # type: ignore[method-assign]
        return ticket

    def staging(self) -> Staging:
        device = self

        class Slow(Staging):
            def fetch(self, rows: Any) -> Any:
                device.waited.remove(threading.get_ident())
                time.sleep(device.random.random() * device.slow_s)
                return rows

        return Slow()


@pytest.fixture
def shake(rig: Rig) -> Iterator[Any]:
    devices = []

    def shaken(seed: int, workers: int) -> Rig:
        rig.model.backend = Tardy(seed, 1 + seed % 2)
        devices.append(rig.model.backend)
        made = Rig(rig.model, 1 + seed % 3, 1 + seed % 2, WatchedCore, WatchedPool, WatchedHost, seed)
        return replace(made, host=FlatHost(1, None, workers))

    yield shaken
    rig.model.backend = Backend()
    for device in devices:
        device.close()


# An expert told as computed before its rows are written, or computed of rows that are not there yet; one fact too many.
@pytest.mark.parametrize("seed", range(4))
def test_nothing_depends_on_when_a_worker_ends(seed: int, shake: Any, whole: Ran) -> None:
    others = threading.active_count()
    rig = shake(seed, 1 + seed % 3)
    for held in (1, 6, rig.experts)[seed % 2 :]:
        for policy in (Split, partial(Placing, last=bool(seed % 2))):
            ran = follow(rig, policy, held, ROUTING).check()
            assert ran.same_logits(whole), held
            accounts, spans = ran.accounts, ran.machine.timeline.hosts
            assert accounts.host_ns == sum(spans[1::3]) - sum(spans[::3])
            assert accounts.host_lookups == len(placed(ran)) == len(spans) // 3
    assert threading.active_count() <= others + 1  # of the shaky device, and of the machine none


# -- at once, or one after the other ------------------------------------------------------------------------------


class Gated(Backend):
    """A host that waits for ``open`` before it computes."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def staging(self) -> Staging:
        gate = self.open

        class Waiting(Staging):
            def fetch(self, rows: Any) -> Any:
                assert gate.wait(20), "the device waits for the host"
                return rows

        return Waiting()


def test_copies_and_the_device_go_on_while_the_host_computes(rig: Rig, whole: Ran) -> None:
    class Opening(Split):
        """Lets the host go when the last of the GPU's experts of the first event has been computed."""

        left = None

        def on_gate(self, event: LayerEvent) -> None:
            super().on_gate(event)
            if self.left is None:
                self.left = sum(x % 2 == 0 for x in event.demand)
                assert 0 < self.left < len(event.demand)

        def keep(self, expert: int) -> bool:
            self.left -= 1
            if not self.left:
                rig.model.backend.open.set()
            return True

    rig.model.backend = Gated()
    ran = follow(rig, Opening, 4, ROUTING).check()
    rig.model.backend = Backend()
    assert ran.same_logits(whole)


@pytest.mark.parametrize("last", [False, True])
def test_a_serial_policy_has_the_host_last(last: bool, rig: Rig, whole: Ran) -> None:
    ran = follow(rig, partial(Split, last=last), 4, ROUTING).check()
    assert ran.same_logits(whole)
    asked, gpu = False, []
    for op, _ in entries(ran.core.log):
        gpu += [asked] if op == EXPERT else []
        asked = op == NEXT_HOST or (asked and op != GATE)
    assert any(gpu) is not last, "experts of the GPU that are told as computed after the host was asked"
