"""A policy may act in any of its hooks; the least case of each slip that the textbook machine found."""

import pytest

from policies.api import LayerEvent, Setup, Step
from sim.core.accounts import CANCELLED, IN_FLIGHT, USEFUL, USELESS
from tests.sim.machine.cases import FlatCosts, decode, make_setup, record
from tests.sim.machine.restless import Told

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=100, per_token=100, per_step=0, launch_ns=0, layer_overhead_ns=0)


class Chain(Told):
    """The slot of one prefetch calls for the next, more urgent one."""

    name = "chain"

    def on_step(self, step: Step) -> None:
        self.actions.prefetch(0, 0)

    def on_slot(self, expert: int) -> None:
        if expert == 0:
            self.actions.prefetch(1, 9)


def test_a_prefetch_from_on_slot_ahead_of_the_one_handed_over_is_not_lost() -> None:
    setup = make_setup([10], 3, 20, costs=COSTS)
    accounts, core = record(Chain, setup, decode([[[]]], 3))
    assert [core.state.view().complete(x) for x in range(3)] == [True, True, False]
    assert accounts.speculative_bytes == 20
    assert accounts.fates[USELESS] == 2


class Regretful(Told):
    """Cancels the load for which room is being made."""

    name = "regretful"

    def on_step(self, step: Step) -> None:
        self.actions.prefetch(step.number, 0)

    def on_evict(self, expert: int) -> None:
        if expert == 1:
            self.actions.cancel(2)


def test_a_load_cancelled_while_room_is_made_takes_no_slot() -> None:
    setup = make_setup([10], 3, 10, costs=COSTS)
    accounts, core = record(Regretful, setup, decode([[[]], [[]]], 3))
    assert core.state.used == 0
    assert accounts.fates[USELESS] == accounts.fates[CANCELLED] == 1
    assert accounts.speculative_bytes == 10


class Fickle(Told):
    """Refuses to make room for the prefetched 2, until a fact changes its mind."""

    name = "fickle"

    def __init__(self, setup: Setup, changes_on: str) -> None:
        super().__init__(setup)
        self.changes_on = changes_on
        self.sure = False

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            self.actions.prefetch(0, 3)
            self.actions.prefetch(1, 2)
            self.actions.prefetch(2, 1)
            self.actions.predict(1, 50, False)
        else:
            self.sure = self.sure or self.changes_on == "step"

    def on_gate(self, event: LayerEvent) -> None:
        self.sure = self.sure or self.changes_on == "gate"

    def on_prediction(self, tag: int) -> None:
        self.sure = self.sure or self.changes_on == "prediction"

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return super().victim(incoming, speculative) if self.sure or not speculative else None


@pytest.mark.parametrize(
    ("fact", "steps"), [("step", [[[]], [[]]]), ("gate", [[[0]]]), ("prediction", [[[]]])], ids=["step", "gate", "pred"]
)
def test_a_change_of_mind_counts_from_the_fact_that_brought_it(fact: str, steps: list[list[list[int]]]) -> None:
    setup = make_setup([10], 3, 20, costs=COSTS)
    _, core = record(lambda setup: Fickle(setup, fact), setup, decode(steps, 3))
    assert core.state.view().complete(2)


class Dropper(Told):
    """Refuses to evict half a load for a more urgent one, and cancels it later."""

    name = "dropper"

    def on_step(self, step: Step) -> None:
        self.actions.prefetch(0, 0)
        self.actions.predict(1, 50, False)

    def on_slot(self, expert: int) -> None:
        if expert == 0:
            self.actions.prefetch(1, 9)

    def on_prediction(self, tag: int) -> None:
        self.actions.cancel(0)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None


def test_a_slot_freed_by_cancel_is_used_at_once() -> None:
    setup = make_setup([10], 2, 10, chunks=2, costs=COSTS)
    accounts, core = record(Dropper, setup, decode([[[]]], 2))
    assert core.state.view().complete(1)
    assert accounts.fate_bytes[CANCELLED] == 5


class Late(Told):
    """Asks for a prediction when an expert has been computed."""

    name = "late"

    def keep(self, expert: int) -> bool:
        self.actions.predict(1, 60, False)
        return True

    def on_prediction(self, tag: int) -> None:
        self.actions.prefetch(1, 0)


def test_a_prediction_asked_for_in_keep_starts_at_once() -> None:
    setup = make_setup([10, 10], 1, 20, costs=COSTS)
    accounts, _ = record(Late, setup, decode([[[0], [0]]], 1))
    # The expert ends at 210, the prediction at 270, the copy at 280, the next gate is at 310.
    assert accounts.fates[USEFUL] == 1
    assert accounts.fates[IN_FLIGHT] == 0
