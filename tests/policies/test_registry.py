"""Policies are found by themselves, and built from strictly checked parameters."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from policies import registry
from policies.api import Policy
from policies.lru import LRU
from sim.check.synthetic import draw, setup_of
from tests.policies.conftest import Plug, Theirs
from traces.kit.errors import UserError

SETUP = setup_of(draw(0), 10_000)


TYPED = (
    "*, must: int, rate: float = 0.5, flag: bool = False, word: str = 'x', mode: Literal['a', 'b'] = 'a',"
    " some: int | None = None",
    "self.given = (must, rate, flag, word, mode, some)",
)
"""One parameter of every kind."""


def test_policies_are_found_by_themselves() -> None:
    ours = {"fifo", "gate_ahead", "lfru", "lfu", "lfu_incache", "lru", "on_demand", "random", "static"}
    assert ours | {"belady_forced", "perfect_next_layer"} <= set(registry.names())
    assert registry.names() == sorted(registry.names())
    assert registry.find("lru") is LRU
    assert registry.find("belady_forced").clairvoyant
    assert registry.defaults("lru") == {"scope": "global"}


def test_another_package_adds_one(theirs: Theirs) -> None:
    theirs(*TYPED)
    policy: Any = registry.build("theirs", SETUP, {"must": 3, "rate": 1, "flag": True, "mode": "b", "some": 4})
    assert policy.given == (3, 1, True, "x", "b", 4)
    assert registry.defaults("theirs") == {"rate": 0.5, "flag": False, "word": "x", "mode": "a", "some": None}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"must": 3, "size": "x"},
            "policy.size='x': theirs has no such parameter; allowed: must, rate, flag, word",
        ),
        ({}, "policy.must: missing; allowed: a whole number"),
        ({"must": True}, "policy.must=true: allowed: a whole number"),
        ({"must": 1.0}, "policy.must=1.0: allowed: a whole number"),
        ({"must": 1, "rate": "1"}, "policy.rate='1': allowed: a finite number"),
        ({"must": 1, "rate": float("nan")}, "policy.rate=nan: allowed: a finite number"),
        ({"must": 1, "rate": True}, "policy.rate=true: allowed: a finite number"),
        ({"must": 1, "flag": 1}, "policy.flag=1: allowed: true or false"),
        ({"must": 1, "word": None}, "policy.word=null: allowed: a text"),
        ({"must": 1, "mode": "c"}, "policy.mode='c': allowed: a, b"),
        ({"must": 1, "mode": ["a"]}, "policy.mode=['a']: allowed: a, b"),
        ({"must": 1, "some": "4"}, "policy.some='4': allowed: a whole number or null"),
    ],
)
def test_parameters_are_checked(theirs: Theirs, params: dict[str, Any], message: str) -> None:
    theirs(*TYPED)
    with pytest.raises(UserError) as error:
        registry.build("theirs", SETUP, params)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_name_is_given_once(plug: Plug) -> None:
    twin = type("Twin", (LRU,), {"name": "lru"})
    plug(twin)
    with pytest.raises(UserError, match=r"^policy=lru: defined twice, by policies\.lru\.LRU and .*Twin; allowed: one"):
        registry.names()


@pytest.mark.parametrize("thing", ["a text", int, type("Nameless", (LRU,), {}), Policy])
def test_an_entry_point_that_is_no_policy(plug: Plug, thing: Any) -> None:
    plug(thing)
    with pytest.raises(UserError, match=r"^moe_offload\.policies: p0=elsewhere:p0: allowed: a class of"):
        registry.names()


@pytest.mark.parametrize("value", ["nosuch_module:Theirs", "policies.lru:Theirs"])
def test_an_entry_point_that_cannot_be_loaded(value: str, monkeypatch: pytest.MonkeyPatch, plug: Plug) -> None:
    plug()
    point = EntryPoint("theirs", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    message = (
        rf"^moe_offload\.policies: theirs={value} cannot be loaded \(\w+Error: .*\); mend or uninstall its package$"
    )
    with pytest.raises(UserError, match=message):
        registry.names()
