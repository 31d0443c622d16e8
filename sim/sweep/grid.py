"""Many results in one table, a row for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from sim.compare.stats import VERY_FEW, few
from sim.frame import label, profile_label
from sim.table import copied, figures, times
from sim.units import format_bytes

HEADS = ("TTFT ms", "TPOT ms", "tok/s", "hits %", "stall ms", "copied", "time", "bytes")
VARYING: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "trace": lambda r: r["provenance"]["trace"]["sha256"][:8],
    "model": lambda r: profile_label(r, "model"),
    "dtype": lambda r: r["config"]["dtype"],
    "hardware": lambda r: profile_label(r, "hardware"),
    "batch": lambda r: str(r["config"]["workload"]["batch"]),
    "chunks": lambda r: str(r["config"]["chunks"]),
    "warmup": lambda r: str(r["config"]["warmup"]),
    "limit": lambda r: str(r["config"]["limit"]),
    "measure": lambda r: r["config"].get("measure", "test"),
    "seed": lambda r: str(r["config"]["seed"]),
}
"""What has a column where it is not the same in all rows."""


def show_grid(results: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Print the policies' rows as ``sim run`` prints them; the bounds are in ``time`` and ``bytes``, as multiples."""
    rows = list(results)
    varying = [key for key, of in VARYING.items() if len({of(row) for row in rows}) > 1]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("policy", "budget", *varying, *HEADS):
        words = name == "policy"  # a label may take several lines, so that no figure is cut
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        totals, bounds = row["totals"], row["bounds"]
        tokens = totals["generated_tokens"]
        stall = sum(totals["stall_ns"].values()) / 1e6 / tokens
        gaps = ("", "")
        if bounds is not None:
            floor = bounds["time_lower_bound"]["wall_ms"] * 1e6
            gaps = (times(totals["wall_ns"], floor), times(copied(totals), bounds["belady_bypass"]["bytes"]))
        lossy = row["quality"] is not None
        table.add_row(
            label(row["config"]["policy"]) + (", lossy" if lossy else ""),
            format_bytes(row["memory"]["budget_bytes"]),
            *(VARYING[key](row) for key in varying),
            *figures(row, stall, copied(totals) / tokens),
            *gaps,
            style="magenta" if lossy else "",
        )
    console.print(table)
    console.print("stall and copied: per generated token; time and bytes: multiples of the bounds", style="dim")
    if said := few(min((row["totals"]["requests"] for row in rows), default=VERY_FEW)):
        console.print(said, style="yellow")
    if any(row["quality"] is not None for row in rows):
        console.print("lossy rows are another class: their latency ranks with other lossy rows only", style="magenta")
