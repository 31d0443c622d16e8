"""What a validation says of requests that arrived, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from real.validation.tables import number, share, table
from sim.results.label import label

SHOWN = {
    "ttft": "TTFT, ms",
    "queueing": "queueing, ms",
    "tpot": "TPOT, ms",
    "itl": "ITL, ms",
    "request": "request, ms",
    "prefill_pass": "prefill pass, ms",
    "decode_pass": "decode pass, ms",
    "tokens_per_s": "tokens/s",
}
ON_A_TERMINAL = ("ttft", "queueing", "tpot", "tokens_per_s")
HOW = (
    "*Predicted*: the same arrivals, served on the simulated machine by the same scheduler. *Of its batches*: the"
    " batches that the device made, on the simulated machine, by which hit rates are predicted, too. On both, each"
    " prompt of a batch is a pass, and its decode rows are one."
)


def arrivals(rows: Sequence[Mapping[str, Any]], *, whole: bool) -> Iterator[str]:
    """The cells in which requests arrived, a line per figure; nothing where there are none. ``whole``: all figures."""
    rows = [row for row in rows if "serving" in row]
    if not rows:
        return
    heads, names = ["policy", "budget"], tuple(SHOWN) if whole else ON_A_TERMINAL
    if named := whole or len({row["serving"]["arrivals"] for row in rows}) > 1:
        heads.append("arrivals")
    heads += [*(["requests", "batches predicted"] if whole else []), ""]
    found = list[list[str]]()
    for row in rows:
        served = row["serving"]
        cell = [label(row["policy"]), row["budget"], *([served["arrivals"]] if named else [])]
        if whole:
            cell += [f"{served['instances']}", "the same" if served["same_batches"] else "others"]
        found += [[*cell, SHOWN[name], *_figures(served["figures"][name])] for name in names]
    yield HOW
    yield table((*heads, "measured", "predicted", "error", "of its batches", "error"), found)


def _figures(it: Mapping[str, Any]) -> list[str]:
    """Measured, predicted, and predicted of the device's batches, both with their errors."""
    both = (("simulated", "error"), ("of_its_batches", "of_its_batches_error"))
    return [number(it["device"]), *(said for a, b in both for said in (number(it[a]), share(it[b], sign=True)))]
