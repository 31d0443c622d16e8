"""Policies are found by themselves, and built from strictly checked parameters, or are refused by name."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import policies
from policies import ours, registry
from policies.api import Policy
from policies.lru import LRU
from policies.registry import RESERVED
from sim.check.synthetic import draw, setup_of
from sim.experiment.by_hydra import register_policies
from sim.experiment.compose import read_config
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
    assert ours | {"belady_forced", "perfect_next_layer", "oracle_ahead"} <= set(registry.names())
    assert registry.names() == sorted(registry.names())
    assert registry.find("lru") is LRU
    assert registry.find("belady_forced").clairvoyant
    assert registry.defaults("lru") == {"scope": "global"}


def test_each_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in ours.every():
        assert ours.named(policy.name) is policy, "name = is at the beginning of no line of its class"
    assert ours.named("nosuch") is None
    monkeypatch.setattr(ours, "_modules", lambda: {"lru": ["policies.lru", "policies.lfu"], "lfu": ["policies.lru"]})
    assert [ours.named("lru"), ours.named("lfu")] == [None, None], "nobody guesses"
    assert registry.find("lru") is LRU


@pytest.mark.parametrize("said", ["name = 'lru'", 'name: ClassVar[str] = "lru"', 'name="lru"'])
def test_a_name_is_seen_however_it_is_written(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text(f"class A:\n    {said}\n")
    monkeypatch.setattr(policies, "__path__", [str(tmp_path)])
    assert ours._modules.__wrapped__() == {"lru": ["policies.a"]}, "of two that say one name neither is taken"


def test_another_package_adds_one(theirs: Theirs) -> None:
    theirs(*TYPED)
    policy: Any = registry.build("theirs", SETUP, {"must": 3, "rate": 1, "flag": True, "mode": "b", "some": 4})
    assert policy.given == (3, 1, True, "x", "b", 4)
    assert registry.defaults("theirs") == {"rate": 0.5, "flag": False, "word": "x", "mode": "a", "some": None}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"must": 3, "size": "x"}, "policy.size='x': theirs has no such parameter; allowed: must, rate, flag, word"),
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
    for asked in (registry.names, lambda: registry.find("lru")):
        with pytest.raises(
            UserError, match=r"^policy=lru: defined twice, by policies\.lru\.LRU and .*Twin; allowed: one"
        ):
            asked()


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


def refused(params: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as error:
        registry.build("theirs", SETUP, params or {})
    assert "\n" not in str(error.value)
    return str(error.value)


# `ahead` said how many gates are read ahead: a parameter of that name ended in a raw TypeError.
@pytest.mark.parametrize("name", sorted(RESERVED - {"setup"}))
def test_every_name_of_the_base_class_is_reserved(name: str, theirs: Theirs) -> None:
    theirs(f"*, {name}: int = 3")
    told = refused()
    assert told.startswith(f"policy=theirs: parameter {name} is a name of every policy's own; allowed: another")
    assert told.endswith(f"such as own_{name}")


def test_what_is_reserved_is_what_a_policy_has() -> None:
    assert {"ahead", "name", "signals", "view", "actions", "setup", "victim", "on_gate", "lossless"} <= RESERVED
    assert {name for name in dir(Policy) if not name.startswith("_")} <= RESERVED


@pytest.mark.parametrize(
    ("words", "message"),  # of its parameters, or of its body
    [
        ("*, memory=0.9", "parameter memory has no type annotation; allowed: bool, int"),
        ("*, _depth: int = 1", "parameter _depth begins with _; allowed: another name, such as own_depth"),
        ("*, __depth__: int = 1", "parameter __depth__ begins with _"),
        ("*, on: bool = True", "parameter on is no text in YAML; allowed: another name, such as own_on"),
        ("*, null: int = 1", "parameter null is no text in YAML"),
        ("*, no: int = 1", "parameter no is no text in YAML"),
        ("*, defaults: int = 1", "parameter defaults is a word of Hydra's; allowed: another name"),
        ("**rest: int", "**rest in __init__ hides its parameters; allowed: each by its name"),
        ("*rest: int", "*rest in __init__ hides its parameters"),
        ("depth: int = 1, /", "__init__ takes no setup; allowed: __init__(self, setup, *"),
        ("*, sizes: list = []", "parameter sizes is of type list; allowed: bool, int, float, str, a Literal"),
        ("*, sizes: list[int] = ()", "parameter sizes is of type list"),
        ("*, sizes: dict[str, int] | None = None", "parameter sizes is of type "),
        ("*, size: Any = 3", "parameter size is of type Any"),
        ("*, size: 'Nowhere' = 3", "a type annotation of __init__ is not understood (name 'Nowhere' is not defined)"),
        ("*, size: int = []", "parameter size has the default []; allowed: a whole number"),
        ("*, size: int = 0.5", "parameter size has the default 0.5; allowed: a whole number"),
        ("*, size: float = None", "parameter size has the default null; allowed: a finite number"),
        ("*, mode: Literal['a', 'b'] = 'c'", "parameter mode has the default 'c'; allowed: a, b"),
        ("self.ahead = 3", "its __init__ sets self.ahead, which is every policy's own; allowed: self.own_ahead"),
        ("self.victim = None", "its __init__ sets self.victim"),
        ("self.setup = None", "its __init__ does not call super().__init__(setup); allowed: one that does, first"),
    ],
)
def test_a_constructor_that_no_policy_can_have(words: str, message: str, theirs: Theirs) -> None:
    theirs(*(("*, depth: int = 1", words) if words.startswith("self.") else (words,)))
    assert refused().startswith(f"policy=theirs: {message}")


def test_a_value_that_a_policy_refuses_in_python_s_own_way_is_named(theirs: Theirs) -> None:
    theirs("*, depth: int = 1", "raise ValueError('not so\\ndeep')")
    assert refused({"depth": 9}) == "policy=theirs, depth=9: refused by it (not so deep)"


def test_declarations_are_checked_too(theirs: Theirs) -> None:
    theirs("*, depth: int = 1", ahead="deep")
    assert refused() == ("policy=theirs: ahead='deep'; allowed: the name of a parameter (depth), or a number of layers")
    theirs("*, depth: int = 1", base=Policy)
    assert refused().startswith("policy=theirs: it has no victim; allowed: ")
    for name in (5, "my policy", "5th"):
        theirs("*, depth: int = 1", name=name)
        with pytest.raises(UserError, match=r"^moe_offload\.policies: p0=elsewhere:p0: name=.*; allowed: letters"):
            registry.names()


# One package's mistake: told where its policy is asked for, and in no one else's way.
@pytest.mark.parametrize("words", ["*, name: str = 'x'", "*, sizes: list = []", "*, thing=object()"])
def test_a_broken_policy_leaves_the_others_alone(words: str, theirs: Theirs) -> None:
    theirs(words)
    register_policies()
    assert read_config(["policy=lru"]).policy == {"name": "lru", "scope": "global"}
    assert read_config(["policy=theirs"]).policy == {"name": "theirs"}
    with pytest.raises(UserError, match=r"^policy=theirs: parameter \w+ "):
        registry.normal({"name": "theirs"})


def test_a_name_that_is_nearly_one_is_offered(theirs: Theirs) -> None:
    theirs("*, depth: int = 1, mode: Literal['near', 'far'] = 'near'")
    assert refused({"dept": 2}).endswith("allowed: depth, mode; did you mean depth?")
    assert refused({"mode": "nere"}) == "policy.mode='nere': allowed: near, far; did you mean near?"
    with pytest.raises(UserError, match=r"allowed: .*; did you mean lru\?$"):
        registry.build("lro", SETUP, {})
