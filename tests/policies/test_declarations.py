"""A policy that no command line could set, or that covers what every policy has, is refused in one line by name."""

from typing import Any

import pytest

from policies import registry
from policies.api import Policy
from policies.registry import RESERVED
from sim.check.synthetic import draw, setup_of
from sim.experiment.compose import read_config, register_policies
from tests.policies.conftest import Theirs
from traces.kit.errors import UserError

SETUP = setup_of(draw(0), 10_000)


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
