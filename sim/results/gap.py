"""What a run's time is above the bound, divided along a path of reference rows, each of which cheats in more.

Row -> ``belady_forced`` (victims by the future) -> ``perfect_next_layer`` (and one layer is prefetched) ->
``oracle_ahead`` (and all that is to come) -> the bound. A part is the difference of neighbours, so that the parts add
up to the gap, in whole ns; one below 0 says that the row does better in this respect than the next one on the path, as
one that prefetches may. Of the last part, *admission* is at most what the link needs for the bytes that
``belady_forced`` copies beyond ``belady_bypass``: only experts that pass by, or are kept in part, could save them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.results.classes import LOSSLESS, output_of
from sim.results.finished import finished, runs
from sim.results.label import label

if TYPE_CHECKING:
    import pandas as pd

PARTS = {
    "victims": "victim ranking",
    "one_layer": "prefetch of one layer",
    "further": "prefetch further ahead",
    "admission": "admission",
    "rest": "the rest",
}
"""The parts of a gap, and what they are called."""
PATH = ("belady_forced", "perfect_next_layer", "oracle_ahead")
NS_PER_MS = 10**6


def parts_of(
    wall_ns: int, walls: Sequence[int], bound_ns: int, forced_bytes: int, bypass_bytes: int | None, link_ns: int
) -> dict[str, int]:
    """By the names of PARTS, in ns; ``walls``: of the rows of PATH; ``link_ns``: of ``bypass_bytes`` at the peak rate.

    They add up to ``wall_ns - bound_ns``.
    """
    path = [wall_ns, *walls, bound_ns]
    victims, one_layer, further, last = (above - below for above, below in pairwise(path))
    more = (forced_bytes - bypass_bytes) * link_ns // bypass_bytes if bypass_bytes else 0
    admission = max(0, min(last, more))
    return dict(zip(PARTS, (victims, one_layer, further, admission, last - admission), strict=True))


def gap_of(result: Mapping[str, Any]) -> dict[str, int] | None:
    """Of the content of a ``result.json``; None where it has no bounds or no reference rows."""
    bounds, rows = result["bounds"], result["reference"]
    if bounds is None or not rows:
        return None
    time, least = bounds["time_lower_bound"], bounds["belady_bypass"]["bytes"]
    return parts_of(
        result["totals"]["wall_ns"],
        [rows[name]["wall_ns"] for name in PATH],
        round(time["wall_ms"] * NS_PER_MS),
        rows["belady_forced"]["link_bytes"],
        least,
        round(time["link_ms"] * NS_PER_MS),
    )


def gap_of_bounds(wall_ns: int, bounds: Mapping[str, Any], *, with_host: bool = False) -> dict[str, int]:
    """Of a run whose bounds lie in a cell of their own, a ``bounds.json``; ``with_host``: its host may compute."""
    time, rows = bounds["time_lower_bound_with_host" if with_host else "time_lower_bound"], bounds["reference"]
    return parts_of(
        wall_ns,
        [rows[name]["wall_ns"] for name in PATH],
        time["ns"],
        rows["belady_forced"]["link_bytes"],
        None if with_host else bounds["belady_bypass"]["bytes"],
        time["link_ns"],
    )


def hosted(result: Mapping[str, Any]) -> bool:
    """Whether the host computes experts in that run, so that its bound is another."""
    return "host" in result["provenance"]["costs"]


def frame(root: Path, folders: Collection[str]) -> pd.DataFrame:
    """Of the picture: a row per lossless run of ``folders`` that has bounds and reference rows, ``gap_*`` in ms per
    generated token."""
    import pandas as pd

    rows = []
    for run in runs(finished(root, [])):
        result = run.result
        if run.folder not in folders or output_of(result) != LOSSLESS or not result["totals"]["generated_tokens"]:
            continue
        if (parts := gap_of(result)) is not None:
            name, budget = label(result["config"]["policy"]), result["config"]["budget_bytes"]
            rows.append(row(name, budget, result["totals"]["generated_tokens"], parts, with_host=hosted(result)))
    columns = ["policy_label", "lossless", "budget_bytes", "hosted", *(f"gap_{name}" for name in PARTS)]
    return pd.DataFrame(rows, columns=columns)


def row(name: str, budget: int, tokens: int, parts: Mapping[str, int], *, with_host: bool) -> dict[str, Any]:
    """One of that frame; ``tokens``: generated."""
    ms = {f"gap_{part}": ns / NS_PER_MS / tokens if tokens else None for part, ns in parts.items()}
    return {"policy_label": name, "lossless": True, "budget_bytes": budget, "hosted": with_host, **ms}
