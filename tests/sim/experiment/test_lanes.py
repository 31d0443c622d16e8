"""A link of several lanes in a configuration, and what its result says."""

import shlex
from pathlib import Path

from sim.experiment.again import Again
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.run import run

WORDS = ("policy=lru", "budget=4GB", "limit=1")


def test_one_lane_is_what_was_there_before_and_several_are_another_machine(tmp_path: Path) -> None:
    usual, one, four = (run(*WORDS, *more, out=tmp_path) for more in ((), lanes(1), lanes(4)))
    assert one.folder == usual.folder, "the same cell"
    assert "lanes" not in usual.document["config"]["hardware"]["link"]
    assert usual.document["provenance"]["hardware"]["changed"] == []
    assert four.document["provenance"]["hardware"]["changed"] == ["link.lanes"]
    command = shlex.split(Again(tmp_path).command(four.folder.name, "simulated"))
    assert command[4:] == [*WORDS[:1], *lanes(4), *WORDS[1:]]

    before, after = (found.document for found in (usual, four))
    assert after["totals"]["demand_bytes"] == before["totals"]["demand_bytes"]
    assert after["totals"]["wall_ns"] < before["totals"]["wall_ns"]
    assert 0 < after["link_utilisation"] < before["link_utilisation"] <= 1
    alone, together = (found["bounds"]["time_lower_bound"] for found in (before, after))
    assert min(alone["gap"], together["gap"]) >= 1
    assert together["link_ms"] == int(1e6 * alone["link_ms"]) // 4 / 1e6


def test_a_policy_knows_how_many_there_are() -> None:
    assert [make_cell(read_config([*WORDS, *more])).setup.lanes for more in ((), lanes(4))] == [1, 4]


def lanes(number: int) -> tuple[str]:
    return (f"hardware.link.lanes={number}",)
