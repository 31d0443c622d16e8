"""The table that a person reads."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console
from small_trace import SIZE, Plan, config, write

from sim.run import run_config
from sim.table import show


def test_a_long_name_leaves_room_for_the_figures(tmp_path: Path) -> None:
    """A row with many parameters once lost its figures to its name."""
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    document = dict(run_config(config(trace, 8 * SIZE), tmp_path).document)
    given = {f"parameter_{i}": "a_long_value" for i in range(9)}
    document["config"] = {**document["config"], "policy": {"name": "lru", **given}}
    out = StringIO()
    show(document, Console(file=out, width=100, highlight=False))
    text = out.getvalue()
    assert "…" not in text
    assert all(key in text for key in given)
    speed = f"{document['throughput_tokens_per_s']:,.0f}"
    assert speed in text


def test_without_bounds_there_are_no_multiples_of_them(tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [Plan((1,), 2)], [[[0], [1]]] * 3, n_experts=4)
    texts = []
    for bounds in (True, False):
        out = StringIO()
        document = run_config(config(trace, 8 * SIZE, bounds=bounds), tmp_path / "out").document
        show(document, Console(file=out, width=100, highlight=False))
        texts.append(out.getvalue())
    for words in ("time bytes", "time and bytes: multiples"):
        assert words in texts[0]
        assert words not in texts[1]
    assert "stall and copied: per generated token\n" in texts[1]
