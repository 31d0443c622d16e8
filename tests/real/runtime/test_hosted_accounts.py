"""What a nanosecond is charged to, on a device whose host computes: as in the simulator."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from real.runtime.backend import Backend, Staging
from real.runtime.hosted import HostedMachine
from real.runtime.offloaded import Offloaded
from sim.core.accounts import CPU_EXPERTS
from sim.workload.passes import Pass
from tests.real.runtime.rig import CPU, ROUTING, Host, Rig, follow, hosted
from tests.traces.models.tiny import tiny


@pytest.fixture(scope="module")
def rig() -> Rig:
    return hosted(Rig(Offloaded(tiny("olmoe", num_hidden_layers=3), CPU)))


class Clocked(HostedMachine):
    """Told the time, and driven by hand, without threads."""

    at = 0

    def now(self) -> int:
        return self.at

    def opened(self, ahead: int | None) -> "Clocked":
        """A pass of one token begins at 0, with a load ``ahead`` of its gate; at 7 it asks for 0, and 2 of the host,
        which begins; compute waits."""
        self.core.policy.place = lambda event: [2]  # type: ignore[method-assign]
        self.begin(Pass(False, (0,), [(0, 1)], 1, 1, 1, [], []))
        if ahead is not None:
            self.core.policy.actions.prefetch(ahead, 0.0)
            self._go_on()
        self.at = 7
        self.gate(0, [0, 2], [1, 1])
        assert (self._taken(), self.core.next_host()) == (7, 2)
        self._waiting_since = 7
        return self

    def host_ends(self, at: int) -> "Clocked":
        self.at = at
        self._computed(2, 7)
        return self

    def copied(self, at: int) -> "Clocked":
        self.at = at
        self._arrived()
        self._go_on()
        return self

    def row(self) -> list[int]:
        return self.core.accounts.stall_row()


@pytest.fixture
def clocked(rig: Rig) -> Iterator[Clocked]:
    made = replace(rig, machine_type=Clocked).machine(Host, 8)
    assert isinstance(made, Clocked)
    with made._lock:
        yield made


# As the simulator has it (tests/sim/machine/test_places.py): charged twice, or to what nobody waits for.
def test_while_a_stranger_is_on_the_link_the_host_is_waited_for(clocked: Clocked) -> None:
    clocked.opened(ahead=5).host_ends(11).copied(20).copied(40)
    assert clocked.row() == [20, 0, 20 - 11, 0, 11 - 7]
    assert clocked.core.accounts.host_ns == 4


def test_until_a_worker_begins_the_stranger_alone_is_waited_for(clocked: Clocked) -> None:
    clocked.opened(ahead=5).host_ends(11)
    clocked.at = 13
    clocked._taken()
    assert clocked.row() == [0, 0, 13 - 11, 0, 11 - 7]
    assert clocked.copied(20).row() == [0, 0, 2, 0, 4 + 20 - 13]


def test_while_what_is_demanded_is_on_the_link_it_is_waited_for(clocked: Clocked) -> None:
    assert clocked.opened(ahead=None).host_ends(11).copied(27).row() == [20, 0, 0, 0, 0]


def test_and_so_is_the_rest_of_what_was_copied_ahead(clocked: Clocked) -> None:
    assert clocked.opened(ahead=0).host_ends(11).copied(20).row() == [0, 13, 0, 0, 0]


def test_when_the_device_has_done_its_part_the_host_alone_is_waited_for(clocked: Clocked) -> None:
    clocked.opened(ahead=0).copied(10)
    clocked.core.policy.actions.prefetch(5, 0.0)
    clocked._go_on()
    clocked._waiting_since, clocked._for_host = 12, True
    assert clocked.copied(20).host_ends(40).row() == [0, 3, 0, 0, 28]


def test_waiting_for_the_host_is_charged_to_it(rig: Rig) -> None:
    class Sleeping(Backend):
        def staging(self) -> Staging:
            class Slow(Staging):
                def fetch(self, rows: Any) -> Any:
                    time.sleep(1e-3)
                    return rows

            return Slow()

    rig.model.backend = Sleeping()
    accounts = follow(rig, Host, 4, ROUTING).check().accounts
    rig.model.backend = Backend()
    row = accounts.stall_row()
    assert row[:CPU_EXPERTS] == [0] * CPU_EXPERTS
    assert accounts.host_ns >= accounts.host_lookups * 10**6
    assert 0.8 * accounts.host_ns < row[CPU_EXPERTS] <= 1.2 * accounts.host_ns, "one worker: nothing is at once"
