"""What a policy decided before the first fact, in the result and in the table."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from policies import registry
from policies.api import LayerEvent, Setup
from policies.lru import LRU
from sim.core.acting import stated
from sim.core.state import CoreError
from sim.experiment.run import Result, run_config
from sim.results.table import show
from sim.results.wording import decided_worded
from tests.sim.small_trace import SIZE, Plan, config, write


class Planner(LRU):
    """Planted: it says what it was given to say, and goes on changing it."""

    name = "planner"
    said: ClassVar[Any] = None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.asked = 0

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


def shown(result: Result) -> list[str]:
    out = io.StringIO()
    show(result.document, Console(file=out, width=120, highlight=False))
    return out.getvalue().splitlines()


def test_what_was_decided_before_the_first_fact_is_in_the_result_and_in_one_line_of_the_table(run: Any) -> None:
    result = run("planner", {"plan": (3, 1), "why": "room", "share": 0.5, "gates": []})
    assert result.document["policy"] == {
        "name": "planner",
        "facts": {"plan": [3, 1], "why": "room", "share": 0.5, "gates": []},
    }
    assert json.loads((result.folder / "result.json").read_text())["policy"] == result.document["policy"]
    assert [line for line in shown(result) if "decided" in line] == [
        "planner decided: plan 3 1, why room, share 0.5, gates none"
    ]


def test_who_decides_nothing_has_no_line(run: Any) -> None:
    result = run("lru")
    assert result.document["policy"] == {"name": "lru", "facts": {}}
    assert not any("decided" in line for line in shown(result))


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


def test_what_is_stated_is_a_copy(run: Any) -> None:
    inner = [1, [True, None, "x"]]
    policy = registry.find("lru").__new__(LRU)
    policy.decided = lambda: {"n": inner}  # type: ignore[method-assign]
    found = stated(policy)
    inner.append(2)
    assert found == {"n": [1, [True, None, "x"]]}


def test_long_lists_of_numbers_are_a_range_in_words() -> None:
    assert decided_worded({"per_layer": list(range(16))}) == "per layer " + " ".join(map(str, range(16)))
    assert decided_worded({"per_layer": [5, *range(2000, 2016)]}) == "per layer 5 to 2,015 (17 values)"
    plain = {"a": True, "b": None, "c": 1000, "d": ["x"] * 17}
    assert decided_worded(plain) == "a true, b null, c 1,000, d" + " x" * 17
