"""What a policy asks for is checked where it asks."""

from collections.abc import Callable
from typing import Any

import pytest

from policies.api import LayerEvent, Policy, Setup, Step
from policies.lru import LRU
from sim.core.accounts import PREDICTOR
from sim.core.state import CoreError
from tests.sim.machine.cases import decode, make_setup, simulate


class Asks(LRU):
    """Does one thing at its first gate."""

    def __init__(self, setup: Setup, act: Callable[[Policy], object]) -> None:
        super().__init__(setup)
        self.act = act

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.act(self)

    def on_prediction(self, tag: int) -> None:
        self.actions.predict(tag, 0, False)


# A negative number was another expert, a fraction of a nanosecond went into the accounts, and a hang was a hang.
@pytest.mark.parametrize(
    "act",
    [
        lambda policy: policy.actions.prefetch(-1, 0.0),
        lambda policy: policy.actions.prefetch(4, 0.0),
        lambda policy: policy.actions.prefetch(1, float("nan")),
        lambda policy: policy.actions.cancel(4),
        lambda policy: policy.actions.expect([4]),
        lambda policy: policy.actions.evict(4),
        lambda policy: policy.actions.evict(-1),
        lambda policy: policy.actions.predict(0, -50, True),
        lambda policy: policy.actions.predict(0, 0.3, True),
        lambda policy: policy.actions.predict(0, 0, False),  # and again, whenever it is done
    ],
)
def test_an_action_that_means_nothing_is_an_error(act: Callable[[Policy], object]) -> None:
    setup = make_setup([10], 4, 40)
    with pytest.raises(CoreError):
        simulate(Asks(setup, act), setup, decode([[[0]]], 4))


# A prediction for a layer that no token reached was credited to the next step's gate.
def test_a_prediction_counts_for_the_step_that_it_was_made_for() -> None:
    class Foretells(LRU):
        def on_step(self, step: Step) -> None:
            if step.number == 1:
                self.actions.expect([self.setup.n_experts])  # expert 0 of layer 1, which nobody reaches in this step

    setup = make_setup([10, 10], 4, 80)
    accounts, _ = simulate(Foretells(setup), setup, decode([[[0], []], [[0], [0]]], 4))
    assert accounts.hit_row()[:2] == [3, 0]


# The simulator took one that blocks for no time from any hook, and a device none.
@pytest.mark.parametrize("latency", [0, 5])
@pytest.mark.parametrize(
    ("hook", "may"),
    [*((hook, True) for hook in ("on_step", "route", "on_gate", "schedule")), ("on_complete", False), ("keep", False)],
)
def test_a_prediction_may_block_only_where_compute_has_ended(hook: str, may: bool, latency: int) -> None:
    def asks(policy: LRU, *given: Any) -> Any:
        policy.actions.predict(0, latency, True)
        return getattr(LRU, hook)(policy, *given)

    policy, setup = type("Blocks", (LRU,), {hook: asks}), make_setup([10], 4, 40)
    if may:
        accounts, _ = simulate(policy(setup), setup, decode([[[0]]], 4))
        assert accounts.stall_row()[PREDICTOR] == latency
    else:
        with pytest.raises(CoreError, match="may block the GPU only from on_step, route, on_gate and schedule"):
            simulate(policy(setup), setup, decode([[[0]]], 4))
