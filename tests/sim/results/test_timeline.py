"""A timeline says when everything was, and adds up to the accounts."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sim.check.synthetic import draw, setup_of
from sim.experiment.run import run
from sim.results.timeline import LINK, PREDICTOR, Timeline

COMPUTE = ("dense", "expert", "software", "policy")
WORDS = ("budget=4GB", "limit=2", "bounds=false", "timeline=true")


def slices(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By category; what has none are the counter's."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in json.loads((folder / "timeline.json").read_text())["traceEvents"]:
        if event["ph"] in "XC":
            found[event.get("cat", "counter").partition(" ")[0]].append(event)
    return found


def ns(events: list[dict[str, Any]]) -> int:
    return sum(round(1000 * event["dur"]) for event in events)


@pytest.mark.parametrize(
    "words",
    [
        ("policy=promoe", "chunks=3"),
        ("policy=gate_ahead", "policy.latency_us=50", "policy.blocking=true"),
        ("policy=gate_ahead", "workload.batch=2", "hardware.link.lanes=3", "warmup=1"),
        ("policy=fiddler", "hardware.link.lanes=2", "hardware.host.workers=2", "warmup=1"),
        ("policy=daop", "warmup=1"),
        ("policy=lru", "hardware.software.layer_overhead_us=10", "+hardware.software.policy_us.lru.decode=700.001"),
        ("policy=fmoe", "warmup=1", "chunks=3", "+hardware.software.policy_us.fmoe={prefill:3000,decode:2000}"),
    ],
    ids=" ".join,
)
def test_slices_add_up_to_the_accounts(words: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*words, *WORDS, out=tmp_path)
    totals, found = result.document["totals"], slices(result.folder)
    by_cause: dict[str, int] = defaultdict(int)
    for event in found["stall"]:
        by_cause[event["args"]["cause"]] += round(1000 * event["dur"])
    assert by_cause == {cause: n for cause, n in totals["stall_ns"].items() if n}
    assert ns(found["step"]) == totals["wall_ns"]
    assert sum(ns(found[part]) for part in COMPUTE) == totals["compute_ns"]
    software = result.document["config"]["hardware"]["software"]["layer_overhead_us"]
    assert ns(found["software"]) == float(software) * 1000 * 16 * len(found["step"])
    assert ns(found["policy"]) == totals.get("policy_ns", 0)
    assert ns(found["host"]) == totals.get("host_ns", 0)
    assert bool(found["host"]) == (words[0] in ("policy=fiddler", "policy=daop"))
    lanes = result.document["config"]["hardware"]["link"].get("lanes", 1)
    busy = result.document["link_utilisation"] * totals["wall_ns"] * lanes
    longest = max(round(1000 * e["dur"]) for e in found["copy"])
    assert abs(ns(found["copy"]) - busy) <= 2 * lanes * longest  # cut at the ends


def test_nothing_overlaps_on_a_stream(tmp_path: Path) -> None:
    found = slices(run("policy=gate_ahead", *WORDS, out=tmp_path).folder)
    used = [event["args"]["bytes"] for event in found["counter"]]
    assert 0 < max(used) <= 4_000_000_000, "the counter keeps the budget"
    assert {event["tid"] for event in found["copy"]} == {LINK}
    for lane in (found["copy"], [*found["compute"], *found["stall"]], found["step"]):
        spans = sorted((round(1000 * e["ts"]), round(1000 * (e["ts"] + e["dur"]))) for e in lane)
        assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_predictions_at_a_time_have_lanes_of_their_own() -> None:
    timeline = Timeline()
    for begin, end in ((0, 10), (5, 15), (12, 20), (11, 13)):
        timeline.predict(begin, end, blocking=False)
    events = list(timeline.events("it", setup_of(draw(0), 100)))
    lanes = {event["ts"] * 1000: event["tid"] - PREDICTOR for event in events if event.get("cat") == "prediction"}
    assert lanes == {0: 0, 5: 1, 11: 0, 12: 2}
    named = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert named[-3:] == ["predictor", "predictor 2", "predictor 3"]


def test_lanes_of_the_link_are_shown_apart_and_above_predictor_and_host() -> None:
    timeline = Timeline()
    for chunk, (begin, end) in enumerate(((0, 10), (0, 4), (4, 9), (10, 12))):
        timeline.copy(begin, end, chunk, 0)
    for begin in (0, 1):
        timeline.predict(begin, 5, blocking=False)
        timeline.host(begin, 3, 0)
    events = list(timeline.events("it", setup_of(draw(0), 100)))
    shown = {event["tid"]: event["args"]["sort_index"] for event in events if event["name"] == "thread_sort_index"}
    named = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    assert len(shown) == len(set(shown.values())) == len(named) == 8
    link = ["link, host to device", "link, host to device 2"]
    hosts = ["experts on the host", "experts on the host 2"]
    assert sorted(named, key=lambda name: shown[named[name]])[2:] == [*link, "predictor", "predictor 2", *hosts]
    assert [e["tid"] for e in events if e.get("cat") == "host expert"] == [named[name] for name in hosts]
    copies = [(e["tid"], round(1000 * e["ts"])) for e in events if e.get("cat", "").startswith("copy")]
    one, two = (named[name] for name in link)
    assert sorted(copies) == sorted([(one, 0), (two, 0), (one, 4), (one, 10)])
