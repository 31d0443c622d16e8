"""Laws of events that are computed otherwise than they were recorded. Above each, the bug that it prevents."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.api import LayerEvent, Routing, Setup
from sim.core.accounts import LOOKUPS, RECALL
from sim.core.core import Core
from sim.core.state import CoreError
from tests.sim.machine.cases import FREE_LINK, FlatCosts, decode, make_pass, make_setup, record, simulate
from tests.sim.machine.restless import Bypass, Told

BYTES_READY, BYTES_DEMANDED = 4, 5
FREE = FlatCosts(0, 0, 0, 0, 0, 0, 0)


class Whole(Told):
    """Fetches whole layers, as DeepSpeed does."""

    def route(self, event: LayerEvent) -> Routing | None:
        n, recorded = self.setup.n_experts, dict(zip(event.demand, event.tokens, strict=True))
        layer = range(event.layer * n, event.layer * n + n)
        return Routing(layer, [recorded.get(x, 0) for x in layer])


# A whole layer priced as if all of it were computed, or copied without being counted; by hand.
def test_an_expert_without_tokens_costs_its_bytes_and_no_compute() -> None:
    setup = make_setup([10], 4, 40, costs=FlatCosts(0, 1, 0, 3, 0, 2, 0))
    accounts, core = record(Whole, setup, decode([[[2]], [[1]]], 4))
    # The first step waits for 4 copies of 10 ns: expert 2 is computed (5 ns) while expert 3 is copied.
    assert (accounts.end_ns, accounts.compute_ns) == (40 + 5, 10)
    assert accounts.demand_bytes == 40
    # Of 2 lookups, that of the second step finds its 10 bytes; the others of the layer are in no hit rate.
    assert accounts.hit_row() == [2, 0, 1, 1, 10, 20, 0, 0]
    assert core.accounts.quality_row() == [0] * 7


def test_a_single_row_takes_the_time_of_its_new_tokens() -> None:
    """The engine prices steps of one row by a short cut, which must not be taken here."""

    class Elsewhere(Told):
        name, lossless = "elsewhere", False

        def route(self, event: LayerEvent) -> Routing | None:
            return Routing([0, 1, 2], [0, 1, 1])

    setup = make_setup([10], 4, 40, costs=FREE_LINK)
    accounts, _ = record(Elsewhere, setup, decode([[[3]]], 4))
    plain, _ = record(Bypass, setup, decode([[[3]]], 4))
    assert accounts.compute_ns - plain.compute_ns == FREE_LINK.expert_ns(0, 1) + FREE_LINK.launch_ns
    assert accounts.hit_row()[LOOKUPS] == 2


# A prediction that came true by routing nothing to it; one that was made too late for this gate.
def test_recall_is_of_what_is_computed_and_of_what_was_said_before_the_gate() -> None:
    def recall(said: list[int], late: list[int]) -> int:
        class Guesses(Whole):
            def on_step(self, step: Any) -> None:
                if said and step.number == 1:
                    self.actions.expect(said)

            def route(self, event: LayerEvent) -> Routing | None:
                if late:
                    self.actions.expect(late)
                return super().route(event)

        accounts, _ = record(Guesses, make_setup([10], 4, 40), decode([[[2]], [[2]]], 4))
        return accounts.hit_row()[RECALL]

    assert recall([0, 2], []) == recall([2], []) == 1
    assert recall([0, 1, 3], []) == 0
    assert recall([], [2]) == 1  # said in the route of step 1, it is for step 2
    assert recall([2], [2]) == 2


class Says(Told):
    """Routes as it is told to, in layer 1."""

    name = "says"

    def __init__(self, setup: Setup, routing: Routing | None) -> None:
        super().__init__(setup)
        self.routing = routing

    def route(self, event: LayerEvent) -> Routing | None:
        return self.routing if event.layer == 1 else None


class SaysLossy(Says):
    name, lossless = "says_lossy", False


GOOD = [4, 5], [2, 1]  # as recorded: two rows, layer 1 of four experts
BAD_IN_ANY_CASE = [
    Routing([4, 5, 6], [2, 1]),
    Routing([4, 5, 5], [2, 1, 0]),
    Routing([4, 5, 3], [2, 1, 0]),
    Routing([4, 5, 8], [2, 1, 0]),
    Routing([4, 5, 6], [2, 1, -1]),
    Routing([4, 5], [3, 1]),
    Routing([4, 5], [2, 1.0]),  # type: ignore[list-item]
    Routing(*GOOD, kept_mass=2.0, gate_mass=1.0),
    Routing(*GOOD, kept_mass=-1.0, gate_mass=1.0),
    Routing(*GOOD, kept_mass=float("nan"), gate_mass=1.0),
    Routing(*GOOD, kept_mass=1.0, gate_mass=float("inf")),
    Routing(*GOOD, slots=3, substituted=4),
    Routing(*GOOD, slots=3, skipped=-1),
]
BAD_IF_LOSSLESS = [
    Routing([4], [2]),
    Routing([4, 5], [2, 2]),
    Routing([4, 5], [2, 0]),
    Routing([4, 5, 6], [2, 1, 1]),
    Routing([4, 6], [2, 1]),
    Routing([], []),
    Routing(*GOOD, slots=3, substituted=1),
    Routing(*GOOD, slots=3, skipped=1),
    Routing(*GOOD, slots=3, low_precision=1),
]


def choose(ids: Any, weights: Any = None, kind: Any = np.int64) -> Routing:
    """As recorded, and who computes which token: expert 4 both rows, expert 5 the first."""
    given = np.ones(np.shape(ids), np.float32) if weights is None else np.array(weights)
    return Routing(*GOOD, chosen=(np.array(ids, kind), given))


BAD_CHOICES = {
    "another number of tokens": choose([[0, 4], [0, 4]]),
    "another expert": choose([[0, 2], [0, 4]]),
    "one that is not demanded": choose([[0, 1], [0, 2]]),
    "one twice for one token": Routing(
        [4, 5], [2, 1], chosen=(np.array([[0, 0], [1, 4]]), np.ones((2, 2), np.float32))
    ),
    "a row too few": choose([[0, 1]]),
    "no such expert": choose([[0, 1], [0, 5]]),
    "a negative one": choose([[0, 1], [0, -1]]),
    "small integers": choose([[0, 1], [0, 4]], kind=np.int32),
    "wide weights": choose([[0, 1], [0, 4]], [[1.0, 1.0], [1.0, 0.0]]),
    "weights of another shape": choose([[0, 1], [0, 4]], np.ones((2, 3), np.float32)),
    "a weight that is not a number": choose([[0, 1], [0, 4]], np.full((2, 2), np.nan, np.float32)),
    "a flat list": choose([0, 1, 0, 4]),
}
GOOD_IN_ANY_CASE = [None, Routing(*GOOD), Routing([7, 5, 6, 4], [0, 1, 0, 2])]


def play(kind: type[Says], routing: Routing | None) -> Any:
    setup = make_setup([10, 10], 4, 80)
    return simulate(kind(setup, routing), setup, [make_pass([[[0], [0, 1]], [[1], [0]]], 4)])


# A lossless policy that is not; an expert of another layer, whose pin never ends.
@pytest.mark.parametrize("kind", [Says, SaysLossy])
@pytest.mark.parametrize("routing", BAD_IN_ANY_CASE, ids=str)
def test_a_routing_that_means_nothing_is_an_error(kind: type[Says], routing: Routing) -> None:
    with pytest.raises(CoreError):
        play(kind, routing)


@pytest.mark.parametrize("routing", BAD_IF_LOSSLESS, ids=str)
def test_a_lossless_policy_may_only_add_experts_without_tokens(routing: Routing) -> None:
    with pytest.raises(CoreError, match=r"policy says routes layer 1 .*is lossless"):
        play(Says, routing)
    play(SaysLossy, routing)


@pytest.mark.parametrize("routing", GOOD_IN_ANY_CASE, ids=str)
def test_what_a_lossless_policy_may_do(routing: Routing | None) -> None:
    play(Says, routing)


# A device computes what the policy chose, while the accounts count and price what it demanded.
@pytest.mark.parametrize("what", BAD_CHOICES)
def test_who_computes_which_token_is_what_is_demanded(what: str) -> None:
    with pytest.raises(CoreError, match="policy says_lossy routes layer 1 to"):
        play(SaysLossy, BAD_CHOICES[what])


def test_a_choice_is_a_lossy_policys_and_changes_no_account() -> None:
    routing = choose([[0, 1], [4, 0]])
    (with_it, core), (without, other) = play(SaysLossy, routing), play(SaysLossy, Routing(*GOOD))
    assert (with_it, core.digest()) == (without, other.digest())
    with pytest.raises(CoreError, match="tokens of its own choice, and is lossless"):
        play(Says, routing)


def test_the_losses_are_summed_by_phase() -> None:
    losses = {"kept_mass": 0.75, "gate_mass": 1.0, "slots": 3, "substituted": 1, "skipped": 2, "low_precision": 3}
    setup = make_setup([10, 10], 4, 80)
    step = make_pass([[[0], [0, 1]], [[1], [0]]], 4)
    passes = [replace(step, prefill=True), step, step]
    accounts, _ = simulate(SaysLossy(setup, Routing(*GOOD, **losses)), setup, passes)  # type: ignore[arg-type]
    # In layer 0 it answers None: its two slots count, and its gate mass is unknown.
    assert accounts.quality == [[0.75, 1.0, 5, 1, 2, 3, 1], [1.5, 2.0, 10, 2, 4, 6, 2]]
    assert accounts.quality_row() == [2.25, 3.0, 15, 3, 6, 9, 3]


# Two policies that route differently, to the same experts: the digest would pass them off as one.
def test_the_digest_holds_the_routing() -> None:
    def run(*tokens: int) -> Core:
        setup = make_setup([10, 10], 4, 80, costs=FREE)
        routing = Routing([4, 5], tokens)
        return record(lambda s: SaysLossy(s, routing), setup, [make_pass([[[0], [0, 1]], [[1], [0]]], 4)])[1]

    one, again, other = run(2, 1), run(2, 1), run(1, 2)
    assert one.log == other.log  # the log holds the facts, and these are the same: the demand as it was recorded
    assert one.digest() == again.digest() != other.digest()


def test_an_event_may_lose_all_its_experts() -> None:
    accounts, _ = play(SaysLossy, Routing([], [], slots=3, skipped=3))
    assert accounts.hit_row()[LOOKUPS] == 2  # layer 0's
