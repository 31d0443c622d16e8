"""What a modified model's gate says of the next layer: to whom it may be known, and that no more may."""

from collections.abc import Callable
from typing import Any

import pytest

from policies.api import LayerEvent, Policy, Setup
from policies.lru import LRU
from policies.pregated import Pregated
from sim.check.laws import assert_causal
from sim.check.synthetic import Routing


class Reads(LRU):
    """Prefetches what the pre-gate says, in prefill too, from the first layer on."""

    modified = True

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        n, layer = self.setup.n_experts, event.layer + 1
        for x in event.signals.pregate().ravel().tolist() if layer < self.setup.n_layers else ():
            self.actions.prefetch(layer * n + x, 0.0)


class Undeclared(Reads):
    """Planted: of the model as it is, it says, and reads what this one's gates do not say."""

    modified = False


class Given(LRU):
    """Planted: it has the demand of the whole run, and prefetches that of the event so many events on."""

    modified = True
    ahead_by, stays_in_the_pass = 1, True

    def __init__(self, setup: Setup, routing: Routing) -> None:
        super().__init__(setup)
        self.events, self.now = [d for p in routing.passes() for d in p.demand], -1

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.now += 1
        if event.layer + self.ahead_by >= self.setup.n_layers and self.stays_in_the_pass:
            return
        for x in self.events[min(self.now + self.ahead_by, len(self.events) - 1)]:
            self.actions.prefetch(x, 0.0)


class Two(Given):
    """Planted: two layers ahead."""

    ahead_by = 2


class IntoTheNext(Given):
    """Planted: from the last layer on into the next pass, whose tokens nobody has."""

    stays_in_the_pass = False


def alone(kind: type[Policy]) -> Callable[[Setup, Routing], Policy]:
    return lambda setup, _: kind(setup)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [Given, alone(Reads), alone(Pregated)])
def test_a_pregate_is_known_to_who_declares_a_modified_model(make: Any, seed: int) -> None:
    assert_causal(make, seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [Two, IntoTheNext, alone(Undeclared)])
def test_a_pregate_shows_one_layer_and_no_more(make: Any, seed: int) -> None:
    with pytest.raises(AssertionError, match="with knowledge of later"):
        assert_causal(make, seed)
