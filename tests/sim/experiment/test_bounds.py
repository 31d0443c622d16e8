"""The bounds at many budgets at once: those of the runs, and what straight lines between budgets would hide."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from sim.experiment.bounds import Floor, floors
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.run import run

GB = 10**9


@pytest.mark.parametrize("words", [("limit=1",), ("limit=1", "warmup=1", "workload.batch=2")])
def test_they_are_those_of_the_runs(words: Sequence[str], tmp_path: Path) -> None:
    cell = make_cell(read_config(["policy=lru", "budget=2GB", *words]))
    floor = floors(cell, [2 * GB, 10 * GB])[1]
    bounds = run("policy=lru", "budget=10GB", *words, out=tmp_path).document["bounds"]
    assert floor.nbytes == bounds["belady_bypass"]["bytes"]
    found = [ns / 1e6 for ns in (floor.ns, floor.compute_ns, floor.link_ns)]
    assert found == [bounds["time_lower_bound"][key] for key in ("wall_ms", "compute_ms", "link_ms")]


@pytest.fixture(scope="module")
def grid() -> list[Floor]:
    """From nothing to beyond room for all experts."""
    return floors(make_cell(read_config(["policy=lru", "budget=8GB", "limit=1"])), range(0, 13 * GB + 1, GB // 4))


def test_more_memory_never_raises_a_bound_and_gains_less_and_less(grid: list[Floor]) -> None:
    for figure, rounding in (("nbytes", 0), ("ns", 200)):  # a nanosecond for each window, of one request
        values = [getattr(floor, figure) for floor in grid]
        gains = [here - there for here, there in pairwise(values)]
        assert min(gains) >= 0
        assert all(first >= second - rounding for first, second in pairwise(gains)), "not convex"


# Pictures of six budgets joined the bound by straight lines, and shaded what can be reached.
def test_a_straight_line_between_budgets_is_above_the_bound() -> None:
    cell = make_cell(read_config(["policy=lru", "budget=8GB"]))
    before, between, after = (floor.ns for floor in floors(cell, [10 * GB, 10 * GB + GB // 2, 12 * GB]))
    assert (3 * before + after) / 4 > 1.02 * between
