"""A validation for a person at a terminal: what its Markdown says, with fewer columns where there is less room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from real.validation.verdict import TIMES, WORDS, about, judgement, label, milliseconds, share
from traces.kit.units import counted

if TYPE_CHECKING:  # a server may lack it, and prints Markdown then
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

WIDE = 100
"""Columns of a terminal that has room for TTFT as well."""


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print what was run, the errors summed up, the criteria, and a row per cell with the worst first."""
    from rich.text import Text

    console.print(Text(f"predicted against measured: {document['provenance']['model']['name']}", style="bold"))
    for line in about(document["provenance"]):
        console.print(Text(line))
    console.print()
    console.print(_summary(document))
    console.print(Text("error of a time: (measured - predicted) / measured; of a rate: measured - predicted"))
    for said in _criteria(document):
        console.print(said)
    console.print()
    console.print(_cells(document, wide=console.width >= WIDE))
    more = "stalls" if console.width >= WIDE else "TTFT, stalls"
    console.print(
        Text(
            "Times in ms. Hits: lookups whose expert was complete, and the error. Decides: what most of the predicted"
            " time goes to, known before the run. Replay: whether the device's log gives its decisions again without a"
            f" clock. The files have {more} and the other hit rates.",
            style="dim",
        )
    )
    for it in document["failed"]:
        console.print(Text(f"not run: {it['policy']} at {it['budget']}: {it['error']}"))


def _summary(document: Mapping[str, Any]) -> Table:
    table = _table("error", "median", "worst", "cells")
    for name, errors in document["summary"].items():
        figures = [share(errors[key], name) for key in ("median", "worst")] if errors else ["-", "-"]
        table.add_row(WORDS[name], *figures, str(errors["rows"] if errors else 0))
    return table


def _criteria(document: Mapping[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    for it in document["criteria"]:
        if it["value"] is not None:
            what, found, wanted, said = judgement(it)
            said = said.replace("; not judged", " (not judged)")
            yield Text(f"{said}: {what}, over {counted(it['cells'], 'cell')}: {found}, wanted {wanted}")


def _cells(document: Mapping[str, Any], *, wide: bool) -> Table:
    from rich.text import Text

    shown = TIMES[:2] if wide else TIMES[:1]
    heads = [f"{WORDS[name]}\n{what}" for name in shown for what in ("measured", "predicted", "error")]
    table = _table("policy", "budget", *heads, "hits")
    for name in ("decides", "replay"):
        table.add_column(name)
    for row in document["cells"]:
        hits = row["errors"]["hit_complete"]
        rate = "-" if hits["device"] is None else f"{hits['device']:.3f}"
        figures = []
        for name in shown:
            it = row["errors"][name]
            figures += [milliseconds(it["device"]), milliseconds(it["simulated"]), share(it["error"], name, sign=True)]
        agrees = row["replay"]["agrees"] and row["replay"]["accounts_agree"]
        table.add_row(
            *(label(row["policy"]), str(row["budget"]), *figures),
            *(f"{rate} ({share(hits['error'], 'hit_complete', sign=True)})", row["decides"]),
            "agrees" if agrees else Text("DIFFERS", style="bold red"),
        )
    return table


def _table(first: str, *heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in heads:
        table.add_column(name, justify="right")
    return table
