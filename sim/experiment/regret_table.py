"""What ``python -m sim regret`` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from sim.experiment.regrets import Regrets
from sim.results.gap import PARTS
from sim.results.gap import row as gap_row
from traces.kit.units import figure, format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


TIME = """\
gap: time of a generated token beyond the bound; of it, what better victims are worth (the row's time less
belady_forced's), prefetch of the next layer (less perfect_next_layer's) and of all that is to come (less
oracle_ahead's), what passes by, and the rest; below 0: the row does that better than the next; where a policy leaves
experts to the host, the rest is mostly what that is worth, as none of the other three does"""
EVICTIONS = """\
worse: the victim comes back before the one of Belady's rule would; events sooner: by how many layer events, the
mean of all evictions; worst: the layer, and the age in passes since the victim's last demand, to which most of
these events belong, and their share"""


def show(found: Regrets, console: Console) -> None:
    """Two tables: of time, and of evictions."""
    rows = found.rows
    heads = ["gap ms/token", *(f"{name} %" for name in PARTS.values())]
    console.print(_table(heads, [(row, _gap(row)) for row in rows]))
    _say(console, TIME)
    console.print()
    heads = ["evictions", "worse %", "prefill %", "decode %", "events sooner", "worst layer", "worst age"]
    console.print(_table(heads, [(row, _evicted(row)) for row in rows]))
    _say(console, EVICTIONS)
    for line in found.left_out:
        console.print(line, style="yellow", markup=False, highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False)


def _table(heads: Sequence[str], rows: Sequence[tuple[Row, Sequence[str]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("budget", justify="right")
    for head in heads:
        table.add_column(head, justify="right")
    for row, words in rows:
        seed = f", seed {row['seed']}" if row["seed"] else ""
        table.add_row(f"{row['policy']}{seed}", format_bytes(row["budget_bytes"]), *words)
    return table


def _gap(row: Row) -> list[str]:
    parts = row["gap_ns"]
    gap_ns = sum(parts.values())
    ms = gap_ns / 1e6 / row["generated_tokens"] if row["generated_tokens"] else float("nan")
    return [figure(ms), *(f"{100 * ns / gap_ns:.1f}" if gap_ns else "-" for ns in parts.values())]


def _evicted(row: Row) -> list[str]:
    found = row["evictions"]
    n, events = found["evictions"], found["regret_events"]
    phases = [found["by_phase"][phase] for phase in ("prefill", "decode")]
    layers = {f"{i}": it["regret_events"] for i, it in enumerate(found["by_layer"])}
    ages = {name: it["regret_events"] for name, it in found["by_age"].items()}
    return [
        f"{n:,}",
        *(f"{100 * it['worse'] / it['evictions']:.1f}" if it["evictions"] else "-" for it in (found, *phases)),
        f"{events / n:.1f}" if n else "-",
        *(_worst(parts, events) for parts in (layers, ages)),
    ]


def _worst(parts: Mapping[str, int], whole: int) -> str:
    if not whole:
        return "-"
    name = max(parts, key=lambda name: parts[name])
    return f"{name} ({100 * parts[name] / whole:.0f} %)"


def picture_of(found: Regrets, page: int = 1) -> Figure:
    """The parts of the gaps; EmptyPictureError where there is none to draw."""
    from sim.results.pictures.findings import about
    from sim.results.pictures.gap import gap

    return gap(frame_of(found.rows), page, about(found.runs))


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Of the picture: ms per generated token by part."""
    return pd.DataFrame(map(_parts, rows))


def _parts(row: Row) -> dict[str, Any]:
    return gap_row(row["policy"], row["budget_bytes"], row["generated_tokens"], row["gap_ns"], with_host=row["hosted"])


def figures_of(rows: Sequence[Row]) -> pd.DataFrame:
    """A row each: times and parts of the gap in ms per generated token, and its evictions."""
    found = []
    for row in rows:
        tokens, evicted = row["generated_tokens"], row["evictions"]
        own = {key: row[key] for key in ("seed", "folder")}
        own |= {
            f"{key}ms_per_token": _ms(row[f"{what}_ns"], tokens) for key, what in (("", "wall"), ("bound_", "bound"))
        }
        own |= {key: evicted[key] for key in ("evictions", "worse")}
        own["events_sooner"] = evicted["regret_events"] / evicted["evictions"] if evicted["evictions"] else None
        found.append(_parts(row) | own)
    return pd.DataFrame(found).drop(columns="lossless")


def evictions_of(rows: Sequence[Row]) -> pd.DataFrame:
    """A row for each kind of evictions of each."""
    found = []
    for row in rows:
        own = {"policy_label": row["policy"], "budget_bytes": row["budget_bytes"], "seed": row["seed"]}
        evicted = row["evictions"]
        kinds = {"phase": evicted["by_phase"], "layer": dict(enumerate(evicted["by_layer"])), "age": evicted["by_age"]}
        found += [
            {**own, "by": by, "kind": str(kind), **it} for by, kind_of in kinds.items() for kind, it in kind_of.items()
        ]
    return pd.DataFrame(found)


def _ms(ns: int, tokens: int) -> float | None:
    return ns / 1e6 / tokens if tokens else None
