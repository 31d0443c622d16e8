"""The one table of a sweep."""

from pathlib import Path

import pytest

from sim.experiment.run import run_config
from sim.experiment.sweep.multirun import HEADS, show_grid
from tests.sim.saying import printed
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, write
from traces.kit.units import figure


# A preset of many parameters, whose labels took the room of the figures: not one could be read.
@pytest.mark.parametrize("width", [80, 120])
def test_long_labels_leave_room_for_the_figures(width: int, tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    document = dict(run_config(config(trace, 8 * SIZE), tmp_path / "out").document)
    given = {f"parameter_{i}": "a_long_value" for i in range(9)}
    document["config"] = {**document["config"], "policy": {"name": "lru", **given}}
    text = "\n".join(printed(show_grid, [document], width))
    assert "…" not in text
    assert f" {figure(1000 / document['throughput_tokens_per_s'])} " in text
    assert all(key in text for key in given)
    assert max(map(len, text.splitlines())) <= width
    assert "1 request is very few: with others, the order of the policies may turn." in text.replace("\n", " ")


def test_a_narrow_console_has_fewer_columns_and_says_which(tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    rows = [run_config(config(trace, 8 * SIZE, seed=seed), tmp_path / "out").document for seed in (0, 1)]
    rows[0] = {**rows[0], "config": {**rows[0]["config"], "policy": {"name": "lru", "a": "long_enough_to_need_room"}}}
    seen = {}
    for width in (56, 66, 120):
        lines = printed(show_grid, rows, width)
        assert max(map(len, lines)) <= width
        heads = next(line for line in lines if line.startswith("policy"))
        gone = [head for head in HEADS[:-2] if head not in heads]  # without bounds there are no multiples
        said = f"no room in {width} columns for: {', '.join(gone)} (format=json has them)"
        assert (said in " ".join(lines)) == bool(gone)
        assert ("no room" in " ".join(lines)) == bool(gone)
        seen[width] = set(gone)
        assert lines[:2] == ["routing of tiny, priced as itself,", "simulated on by_hand (published figures)"]
    assert seen[56] > seen[66] > seen[120] == set()
    assert {"TPOT ms", "ms/token", "hits %"}.isdisjoint(seen[66])


def test_what_the_host_holds_has_a_column_where_it_differs(tmp_path: Path) -> None:
    """Rows of a preset that sweeps it were alike to the last word."""
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    disk = {**MACHINE, "disk": {"gb_per_s": 1, "latency_us": 0}}
    held = [{"host_memory": size, "host_tier": tier} for size in (24, 48) for tier in ("inclusive", "exclusive")]
    cells = [config(trace, 8 * SIZE, hardware=disk, **words) for words in held]
    rows = [run_config(cell, tmp_path / "out").document for cell in cells]
    lines = [line for line in printed(show_grid, rows, 200) if line.startswith("lru")]
    for line, words in zip(lines, held, strict=True):
        assert f"{words['host_memory']} B {words['host_tier']} lru" in " ".join(line.split())
