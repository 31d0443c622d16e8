"""The first sentence of a report: which mean is lowest, within what interval, and how far above the bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.results.columns import LATENCY_NAMES
from sim.results.compare.words import milliseconds, percent
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    from sim.results.compare import Comparison


def opening(found: Comparison) -> str:
    """Of the largest budget, and of the smallest if there are two; of lossless rows, if there are any."""
    cells, kind = found.cells, "lossy "
    if cells["lossless"].any():
        cells, kind = cells[cells["lossless"].astype(bool)], ""
    order = cells.sort_values(["value", "policy_label"], kind="stable")
    rows = order.drop_duplicates("budget_bytes").sort_values("budget_bytes").to_dict("records")
    name, alone = LATENCY_NAMES[found.metric], len(set(cells["policy_label"])) == 1
    last, first = rows[-1], rows[0]
    at, at_first = (f"At {format_bytes(int(row['budget_bytes']))}" for row in (last, first))
    has = f"the mean {name} of {kind}{last['policy_label']} is" if alone else ""
    has = has or f"{kind}{last['policy_label']} has the lowest mean {name}:"
    bound = "the bound in time per generated token"
    said = f"{at}, {has} {_figure(last, percent(found.level) + ' interval ')}{_times(last, bound)}."
    if len(rows) == 1:
        return said
    who = "it is" if first["policy_label"] == last["policy_label"] else f"it is {first['policy_label']}:"
    return f"{said} {at_first} {who} {_figure(first)}{_times(first, 'the bound')}."


def _figure(row: Mapping[Any, Any], what: str = "") -> str:
    ends = "" if math.isnan(row["low"]) else f" ({what}{milliseconds(row['low'])} to {milliseconds(row['high'])})"
    return f"{milliseconds(row['value'])} ms{ends}"


def _times(row: Mapping[Any, Any], bound: str) -> str:
    """The bound is one of the whole time of all requests, prompts included."""
    gap = row["bound_time_gap"]
    return "" if gap is None or math.isnan(gap) else f", {gap:.2f} times {bound}"
