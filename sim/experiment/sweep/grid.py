"""Many results in one table, a row for each."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console

from sim.results.columns import row as frame_row
from sim.results.compare.stats import VERY_FEW, few
from sim.results.fitting import Row, fitted
from sim.results.label import label
from sim.results.table import HEADS, MEANING, MULTIPLES, own_figures
from sim.results.titles import titles, with_changes
from traces.kit.units import format_bytes

VARYING: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "trace": lambda r: r["provenance"]["trace"]["sha256"][:8],
    "model": lambda r: with_changes(r, "model"),
    "dtype": lambda r: r["config"]["dtype"],
    "hardware": lambda r: with_changes(r, "hardware"),
    "batch": lambda r: str(r["config"]["workload"]["batch"]),
    "chunks": lambda r: str(r["config"]["chunks"]),
    "warmup": lambda r: str(r["config"]["warmup"]),
    "limit": lambda r: str(r["config"]["limit"]),
    "measure": lambda r: r["config"].get("measure", "test"),
    "seed": lambda r: str(r["config"]["seed"]),
}
"""What has a column where it is not the same in all rows."""

GOING = ("stall", "copied", "TTFT ms", "hits %")
"""Columns that a narrow console does without, the first one first."""


def show_grid(results: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Print the policies' rows as ``sim run`` prints them; the bounds are in ``time`` and ``bytes``, as multiples.

    Above them stands what they are of, where it is the same for all.
    """
    rows = list(results)
    varying = [key for key, of in VARYING.items() if len({of(row) for row in rows}) > 1]
    bounded = any(row["bounds"] is not None for row in rows)
    lines: list[Row] = []
    for row in rows:
        lossy = row["quality"] is not None
        words = [
            label(row["config"]["policy"]) + (", lossy" if lossy else ""),
            format_bytes(row["memory"]["budget_bytes"]),
            *(VARYING[key](row) for key in varying),
            *own_figures(row),
        ]
        lines.append(("magenta" if lossy else "", "", words))
    for shared in (said for said in zip(*(_about(row) for row in rows), strict=True) if len(set(said)) == 1):
        console.print(shared[0])
    heads = ["policy", "budget", *varying, *(HEADS if bounded else HEADS[:-2])]
    going = [heads.index(name) for name in GOING]
    console.print(*fitted(heads, lines, console, going), sep="\n")
    console.print(MEANING, style="dim")
    if bounded:
        console.print(MULTIPLES, style="dim")
    if said := few(min((row["totals"]["requests"] for row in rows), default=VERY_FEW)):
        console.print(said, style="yellow")
    if any(row["quality"] is not None for row in rows):
        console.print("a lossy row is compared with lossy rows only, and has no bounds", style="magenta")


def _about(row: Mapping[str, Any]) -> tuple[str, str]:
    said = titles(frame_row(row, ""))
    return f"{said.work},", said.where
