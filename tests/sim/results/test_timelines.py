"""Timelines of several GPUs: the slices of each are its accounts, and nobody runs otherwise for being watched."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy
from policies.lru import LRU
from sim.core.accounts import STALLS
from sim.core.several import core_of
from sim.machine.machine import Machine
from sim.results.timeline import Event, Timeline
from sim.results.timelines import Timelines, timeline_of
from tests.sim.machine.cases import FlatCosts, NoSignals, decode, make_setup, simulate
from tests.sim.machine.restless import EXAMPLES, Case, Restless
from tests.sim.machine.several_cases import spread_cases

COMPUTE = ("dense", "expert", "software", "policy")


def ns(events: list[Event], *categories: str) -> int:
    return sum(round(1000 * event["dur"]) for event in events if event.get("cat") in categories)


def on(thread: str, events: list[Event]) -> list[Event]:
    """The slices of a thread, by its name."""
    (number,) = [e["tid"] for e in events if e["name"] == "thread_name" and e["args"]["name"] == thread]
    return [event for event in events if event["ph"] == "X" and event["tid"] == number]


@pytest.mark.parametrize("kind", [LRU, Restless])
@settings(EXAMPLES, max_examples=18)
@given(case=spread_cases(), overhead=st.sampled_from([0, 3]))
def test_slices_of_each_gpu_add_up_to_its_accounts(kind: type[Policy], case: Case, overhead: int) -> None:
    setup = replace(case.setup, costs=replace(case.costs, layer_overhead_ns=overhead))
    more = {"warmup": case.warmup, "depth": case.depth, "lanes": case.lanes, "policy_ns": case.policy_ns}
    timeline = Timelines(setup.gpus)
    accounts, _ = simulate(kind(setup), setup, case.passes, **more, root=case.root, listener=timeline)
    assert accounts == simulate(kind(setup), setup, case.passes, **more, root=case.root)[0], "it is only watched"
    events = list(timeline.events("it", setup))
    software = [event for event in events if event.get("cat") in ("software", "policy")]
    assert ns(software, "software") == overhead * sum(len(step.demand) for step in case.passes)
    for gpu, its in enumerate(accounts.by_gpu):
        stream = on(f"GPU {gpu}, stream", events)
        own = stream + (software if gpu == 0 else [])
        assert ns(own, *COMPUTE) == its.compute_ns
        assert ns(own, "expert") == its.expert_ns
        waits = [ns([e for e in stream if e["args"].get("cause") == cause], "stall") for cause in STALLS]
        assert waits == its.stall_ns
        assert (ns(stream, "peer"), ns(stream, "idle")) == (its.peer_ns, its.idle_ns)
        assert ns(stream, "step") == accounts.wall_ns == ns(own, *COMPUTE, "stall", "peer", "idle")
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in own if e["cat"] != "step")
        assert all(one[1] <= other[0] + 1e-6 for one, other in pairwise(spans))


# Copies that are shown on another GPU's link, or bytes that are counted for all.
def test_copies_and_bytes_are_shown_where_they_are() -> None:
    setup = replace(make_setup([30], 3, 90, costs=FlatCosts(per_copy=0)), gpus=3, homes=[0, 1, 2])
    timeline = Timelines(3)
    accounts, _ = simulate(LRU(setup), setup, decode([[[0, 1]], [[1]], [[0, 1, 2]]], 3), listener=timeline)
    events = list(timeline.events("it", setup))
    for gpu, its in enumerate(accounts.by_gpu):
        copies = on(f"GPU {gpu}, link, host to device", events)
        assert [event["args"]["expert"] for event in copies] == [gpu]
        assert ns(copies, "copy demand") == its.link_busy_ns == 30
        held = [event["args"]["bytes"] for event in events if event["name"] == f"experts on GPU {gpu}"]
        assert held == [30]
    named = [event["tid"] for event in events if event["name"] == "thread_name"]
    assert len(named) == len(set(named)) == 2 + 3 * 2


# What all wait for at the end of a layer, where one stands for several, was once taken for software.
def test_an_all_reduce_is_no_software() -> None:
    setup = make_setup([30, 30], 3, 90, costs=FlatCosts(layer_overhead_ns=0))
    timeline, costs = timeline_of(setup.gpus), setup.costs
    assert type(timeline) is Timeline
    machine = Machine(core_of(LRU(setup), setup, NoSignals()), costs, listener=timeline, all_reduce_ns=lambda n: 5 * n)
    accounts = machine.run((), decode([[[0, 1], [1, 2]], [[0], [2]]], 3))
    events = list(timeline.events("it", setup))
    assert ns(events, "peer") == accounts.peer_ns == 4 * 5
    assert ns(events, "software") == 0
    assert ns(events, *COMPUTE) == accounts.compute_ns
