"""The one table of a sweep."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from small_trace import SIZE, Plan, config, write

from sim.run import run_config
from sim.sweep.grid import show_grid


# A preset of many parameters, whose labels took the room of the figures: not one could be read.
@pytest.mark.parametrize("width", [80, 120])
def test_long_labels_leave_room_for_the_figures(width: int, tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    document = dict(run_config(config(trace, 8 * SIZE), tmp_path / "out").document)
    given = {f"parameter_{i}": "a_long_value" for i in range(9)}
    document["config"] = {**document["config"], "policy": {"name": "lru", **given}}
    out = StringIO()
    show_grid([document], Console(file=out, width=width, highlight=False))
    text = out.getvalue()
    assert "…" not in text
    assert f"{document['throughput_tokens_per_s']:,.0f}" in text
    assert all(key in text.replace("\n", "") for key in given) or width < 100
    assert max(map(len, text.splitlines())) <= width
    assert "1 request is very few: with others, the order of the policies may turn." in text.replace("\n", " ")
