"""Policies that leave experts on the host, on traces written out by hand."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent
from policies.fiddler import Fiddler
from sim.check.laws import Run, run
from sim.check.synthetic import FlatHost, Routing, setup_of
from tests.policies.scripted import SIZE, as_shipped, costs, script
from traces.kit.errors import UserError


def go(name: str, routing: Routing, *, copy: int, host: int, room: int, **params: Any) -> Run:
    """An expert takes ``copy`` ns to fetch, 100 on the GPU and ``host`` on one of the host's, each per token."""
    setup = setup_of(routing, room * SIZE, costs=costs(copy))
    setup = replace(setup, host=FlatHost(host, Fraction(10**9), workers=1))
    return run(registry.build(name, setup, params), routing)


def placed(done: Run, layer: int, tokens: dict[int, int]) -> list[int]:
    """What the policy would leave to the host in the state that the run ended with."""
    policy, step = done.policy, done.core.step
    event = LayerEvent(layer, False, list(tokens), list(tokens.values()), (0,), (1,), step.signals)
    return list(policy.place(event))


# -- static_split -----------------------------------------------------------------------------------------------

THREE = script([[[0, 1], [2, 3], [4, 5]], [[0, 1], [2, 3], [4, 5]]])


# Layers on the host that there is room for; a GPU layer whose experts are copied twice.
@pytest.mark.parametrize(("room", "on_host"), [(1, 3), (7, 3), (8, 2), (16, 1), (23, 1), (24, 0)])
def test_as_few_layers_as_leave_room_for_the_others(room: int, on_host: int) -> None:
    done = go("static_split", THREE, copy=50, host=300, room=room)
    assert done.policy.decided() == {"host_layers": on_host}
    a = done.accounts
    assert a.host_lookups == 2 * 2 * on_host
    assert a.demand_bytes == 2 * SIZE * (3 - on_host)
    assert a.host_ns == a.host_lookups * 300


def test_more_layers_may_be_asked_for_and_fewer_only_with_room() -> None:
    done = go("static_split", THREE, copy=50, host=300, room=24, host_layers=2)
    assert done.accounts.host_lookups == 8
    with pytest.raises(UserError, match=rf"budget={15 * SIZE}: too small for .*host_layers=1; .*{16 * SIZE} bytes"):
        go("static_split", THREE, copy=50, host=300, room=15, host_layers=1)


# -- fiddler ----------------------------------------------------------------------------------------------------

ONE = script([[[0, 1]], [[0, 1]], [[2, 3]]])


@pytest.mark.parametrize(
    ("rule", "host", "tokens", "on_host"),
    [
        ("paper", 149, 1, True),  # by hand: 50 to fetch and 100 to compute
        ("paper", 150, 1, True),
        ("code", 150, 1, False),
        ("paper", 151, 1, False),
        ("code", 149, 1, True),
        ("paper", 110, 5, True),  # 550, for 550
        ("paper", 111, 5, False),
    ],
)
def test_an_expert_goes_where_it_is_done_first(rule: str, host: int, tokens: int, on_host: bool) -> None:
    done = go("fiddler", ONE, copy=50, host=host, room=1, rule=rule)  # no room for a popular one
    assert placed(done, 0, {5: tokens}) == [5] * on_host


# The constants of its code: 7 for each token on the host, 70 to fetch, whatever the tokens. A tie goes to the GPU.
@pytest.mark.parametrize(("tokens", "on_host"), [(1, True), (9, True), (10, False), (11, False)])
def test_its_code_breaks_even_at_ten_tokens(tokens: int, on_host: bool) -> None:
    setup = setup_of(ONE, SIZE, costs=replace(costs(70), expert=0))
    setup = replace(setup, host=FlatHost(7, None, workers=1))
    done = run(registry.build("fiddler", setup, as_shipped("fiddler_code")), ONE)
    assert placed(done, 0, {5: tokens}) == [5] * on_host


# By hand, at 50 to fetch, 100 on the GPU and 110 on the host for each token: of four misses of one token each for
# itself goes to the host (440); weighed, two are fetched (300, the second copy after the first one's compute), and the
# host has 220. Of the tokens 1, 2, 1 the hot one is fetched (250, for 220; one of the others would leave 330).
def test_weighed_against_each_other_they_are_split() -> None:
    paper, most = (go("fiddler", ONE, copy=50, host=110, room=1, rule=rule) for rule in ("paper", "max"))
    assert placed(paper, 0, dict.fromkeys((4, 5, 6, 7), 1)) == [4, 5, 6, 7]
    assert placed(most, 0, dict.fromkeys((4, 5, 6, 7), 1)) == [6, 7]
    assert placed(most, 0, {4: 1, 5: 2, 6: 1}) == [4, 6]
    assert placed(most, 0, {5: 1}) == [5], "110 on the host, for 150"


# What is on the GPU runs there, however slow; what was fetched is not kept.
def test_the_popular_ones_stay_and_the_others_pass_through() -> None:
    done = go("fiddler", ONE, copy=50, host=10**6, room=4)
    assert isinstance(done.policy, Fiddler)
    kept = set(done.policy.kept or ())
    assert len(kept) == 3
    assert {x for x, slot in enumerate(done.core.state.slot) if slot} == kept
    assert done.accounts.host_lookups == 0
    near = go("fiddler", ONE, copy=5, host=1, room=4)  # the popular ones come in time
    assert placed(near, 0, dict.fromkeys(range(8), 1)) == [x for x in range(8) if x not in kept]


# The code's order of a layer: one side after the other.
def test_its_code_runs_the_host_last() -> None:
    two = script([[[0, 1]]] * 4)
    paper, code = (go("fiddler", two, copy=50, host=120, room=2, **p) for p in ({}, as_shipped("fiddler_code")))
    assert code.policy.serial()
    assert not paper.policy.serial()
    assert code.accounts.end_ns > paper.accounts.end_ns
    assert code.core.state.slot == paper.core.state.slot


# -- the machine they need --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["static_split", "fiddler"])
def test_a_machine_whose_host_has_no_price_is_refused(name: str) -> None:
    ids = np.zeros((1, 2, 1), np.uint8)
    setup = replace(setup_of(Routing(ids, [(False, 0, 1)], 8), 1000), host=None)
    with pytest.raises(UserError, match=rf"^policy={name}: .*; allowed: hardware\.host\.cpu_tflops") as error:
        registry.build(name, setup, {})
    assert "\n" not in str(error.value)
