"""Every number that a policy takes has bounds, told in one line, and exactly these are kept."""

import re
from typing import Any, Literal, get_args, get_origin

import pytest

from policies import registry
from sim.check.synthetic import draw, setup_of
from traces.kit.errors import UserError

SETUP = setup_of(draw(0), 10**9)  # 4 layers of 8 experts
TOLD = re.compile(r"allowed: (?:at least (?P<least>\d+)|(?P<low>\d+) to (?P<high>[\d.]+)) \([^()]+\)$")
KINDS = {
    (name, key): kind
    for name in registry.names()
    for key, hint in registry.parameters(name).items()
    for kind in (get_args(hint) or (hint,))
    if kind in (int, float) and get_origin(hint) is not Literal
}
MOST = {"distance": 3, "stride": 3, "least": 8, "capacity": 100_000}


def told(name: str, key: str, value: float) -> tuple[float, float] | None:
    """What is allowed where it is refused; None where it is not."""
    try:
        registry.build(name, SETUP, {key: value})
    except UserError as error:
        message = str(error)
    else:
        return None
    found = TOLD.search(message)
    assert message.startswith(f"policy.{key}={value}: allowed: "), message
    assert found, message
    return float(found["least"] or found["low"]), float(found["high"] or "inf")


@pytest.mark.parametrize(("name", "key"), KINDS)
def test_a_number_is_refused_where_it_means_nothing_and_nowhere_else(name: str, key: str) -> None:
    kind: Any = KINDS[name, key]
    allowed = told(name, key, kind(-1))
    assert allowed is not None
    low, high = allowed
    assert low in (0, 1, 2)
    assert high <= MOST.get(key, 10**6) or (high == float("inf") and kind is int)
    for value in (low, high, (low + min(high, 9)) // 2):
        if value != float("inf"):
            assert told(name, key, kind(value)) is None
    for value in (low - 1, high + 1, 1e17, 1e300):
        if not low <= value <= high and (kind is float or value < 1e18):
            assert told(name, key, kind(value)) == allowed


@pytest.mark.parametrize("name", registry.names())
def test_a_choice_is_one_of_those_listed(name: str) -> None:
    for key, hint in registry.parameters(name).items():
        if get_origin(hint) is Literal:
            with pytest.raises(UserError, match=rf"^policy\.{key}='half': allowed: {', '.join(get_args(hint))}"):
                registry.build(name, SETUP, {key: "half"})
