"""What a policy asks for is checked where it asks; what it says it decided is in the result and in the table."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from policies import registry
from policies.api import LayerEvent, Policy, Setup, Step
from policies.lru import LRU
from sim.core.accounts import PREDICTOR
from sim.core.state import CoreError
from sim.experiment.run import Result, run_config
from sim.results.table import show
from sim.results.wording import decided_worded
from tests.sim.machine.cases import decode, make_setup, simulate
from tests.sim.small_trace import SIZE, Plan, config, write


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
    [
        *((hook, True) for hook in ("on_step", "route", "place", "on_gate", "schedule")),
        *((hook, False) for hook in ("on_complete", "keep")),
    ],
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
        with pytest.raises(CoreError, match="may block the GPU only from on_step, route, place, on_gate and schedule"):
            simulate(policy(setup), setup, decode([[[0]]], 4))


# -- what it says it decided --------------------------------------------------------------------------------------


class Planner(LRU):
    """Planted: it says what it was given to say, and goes on changing it: what was stated is a copy."""

    name = "planner"
    said: ClassVar[Any] = None
    asked = 0

    def decided(self) -> Mapping[str, Any]:
        self.asked += 1
        assert self.view is not None  # it is attached
        return self.said  # type: ignore[no-any-return]

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        assert self.asked == 1, "asked once, before the first fact"
        if isinstance(self.said, dict):
            self.said["gates"].append(event.layer)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    known = {name: registry.find(name) for name in registry.names()}
    monkeypatch.setattr(registry, "_catalogue", lambda: known | {"planner": Planner})
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)

    def one(policy: str, said: Any = None) -> Result:
        monkeypatch.setattr(Planner, "said", said)
        return run_config(replace(config(trace, 8 * SIZE), policy={"name": policy}), tmp_path / "out")

    return one


SAID = {"plan": (3, 1), "why": "room", "share": 0.5, "gates": []}
LINE = "planner decided: plan 3 1, why room, share 0.5, gates none"


@pytest.mark.parametrize(
    ("policy", "said", "facts", "lines"),
    [("planner", SAID, SAID | {"plan": [3, 1]}, [LINE]), ("lru", None, {}, [])],
    ids=["planner", "lru"],
)
def test_what_was_decided_before_the_first_fact_is_in_the_result_and_in_one_line_of_the_table(
    policy: str, said: Any, facts: Any, lines: list[str], run: Any
) -> None:
    result, out = run(policy, said and {**said, "gates": []}), io.StringIO()
    assert result.document["policy"] == {"name": policy, "facts": facts}
    assert json.loads((result.folder / "result.json").read_text())["policy"] == result.document["policy"]
    show(result.document, Console(file=out, width=120, highlight=False))
    assert [line for line in out.getvalue().splitlines() if "decided" in line] == lines


@pytest.mark.parametrize(
    "said",
    [
        {"n": np.int64(3)},
        {"n": np.float64(0.5)},
        {"n": float("nan")},
        {"n": [1, [2, float("inf")]]},
        {"n": np.arange(2)},
        {"n": {1, 2}},
        {"n": {"m": 1}},
        {"n": b"text"},
        {3: "n"},
        {"": 3},
        ["n"],
        None,
    ],
    ids=repr,
)
def test_what_is_not_plain_is_refused_by_name(run: Any, said: Any) -> None:
    with pytest.raises(CoreError, match=r"^policy planner states .* allowed: "):
        run("planner", said)


def test_long_lists_of_numbers_are_a_range_in_words() -> None:
    assert decided_worded({"per_layer": list(range(16))}) == "per layer " + " ".join(map(str, range(16)))
    assert decided_worded({"per_layer": [5, *range(2000, 2016)]}) == "per layer 5 to 2,015 (17 values)"
    plain = {"a": True, "b": None, "c": 1000, "d": ["x"] * 17}
    assert decided_worded(plain) == "a true, b null, c 1,000, d" + " x" * 17
