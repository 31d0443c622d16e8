"""The predictor's thread: what it begins, what it drops, and that no backlog builds up however slow it is."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.gate_ahead import GateAhead
from policies.parts.foreseen import PredictorLine, by_tokens
from sim.check.laws import Witness, run
from sim.check.synthetic import ABSENT, draw, setup_of
from tests.policies import scripted
from tests.policies.desk import Desk
from tests.policies.scripted import costs, sums


def on_a_desk(threads: int = 1) -> Desk:
    setup = replace(setup_of(draw(0, n_layers=5), 10_000, costs=costs(60)), predictor_threads=threads)
    return Desk(GateAhead(setup, latency_us=0.1))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_at_a_time_as_there_are_threads_first_come_first_served(threads: int) -> None:
    begun: list[int] = []
    told: list[int] = []
    setup = replace(setup_of(draw(0, n_layers=5), 10_000), predictor_threads=threads)
    actions = SimpleNamespace(predict=lambda tag, ns, blocking: begun.append(tag))
    nobody: Any = SimpleNamespace(setup=setup, actions=actions)
    line = PredictorLine(nobody, 100, False, lambda layer, experts: told.append(layer))
    for layer in (1, 2, 3, 4):
        line.ask(layer, [])
    for number in (1, 2, 3, 4):
        assert len(begun) == min(4, number - 1 + threads)
        line.done(begun[number - 1])
        assert told == list(range(1, number + 1))


def test_what_is_overtaken_is_not_begun_and_what_is_begun_is_finished() -> None:
    desk = on_a_desk()
    desk.gate(0, [0], [[1]])
    desk.gate(1, [8], [[2]])
    desk.gate(2, [16], [[3]])
    assert len(desk.asked) == 1  # at the first, whose layer has been passed; that of layer 2, too
    desk.policy.on_prediction(1)
    assert desk.expected == []
    assert len(desk.asked) == 2
    desk.policy.on_prediction(2)
    assert desk.expected == [[24 + 3]]
    desk.gate(3, [24], [[4]])
    desk.step(0)
    desk.policy.on_prediction(3)  # asked for in the step before
    assert desk.expected == [[24 + 3]]
    assert len(desk.asked) == 3


@pytest.mark.parametrize("name", ["gate_ahead", "mixtral_offloading", "promoe"])
def test_no_backlog_builds_up(name: str) -> None:
    """The predictor is busy without a gap, and no more: with t ns per prediction, a run of w ns begins w / t + 1."""

    class Counting(Witness):
        begun = 0

        def step_begin(self, *given: Any) -> None:
            super().step_begin(*given)
            Counting.begun += len(self.predictions)

        def gate(self, *given: Any) -> Any:
            event = super().gate(*given)
            Counting.begun += len(self.predictions)
            return event

        def prediction(self, tag: int, now: int) -> None:
            super().prediction(tag, now)
            Counting.begun += len(self.predictions)

    routing = draw(3, n_layers=6, decode=30)
    params: dict[str, Any] = {"predictor": "gate_ahead"} if name == "promoe" else {}
    for latency in (40, 400, 4000):
        Counting.begun = 0
        setup = setup_of(routing, 40 * scripted.SIZE, costs=costs(60))
        done = run(registry.build(name, setup, {"latency_us": latency / 1000} | params), routing, core_type=Counting)
        assert 0 < Counting.begun <= sums(done)[2] // latency + 1


def test_the_union_comes_most_tokens_first_then_first_come() -> None:
    assert by_tokens(np.array([[3, 1], [2, 3], [ABSENT, 3], [0, ABSENT], [1, ABSENT]], np.uint8), 0, 4) == [3, 1, 2, 0]
    assert by_tokens(np.array([[2, 0, ABSENT]], np.uint8), 2, 4) == [10, 8]  # one token: the likeliest first
    assert by_tokens(np.full((2, 2), 65535, np.uint16), 1, 4) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = np.argsort(rng.random((int(rng.integers(1, 9)), 9)), axis=1)[:, :3].astype(np.uint8)
        named = ids.ravel().tolist()
        expected = sorted(dict.fromkeys(named), key=lambda x: -named.count(x))
        assert by_tokens(ids, 1, 9) == [9 + x for x in expected]
