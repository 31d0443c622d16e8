"""What a validation must show, stated before anything was measured on a GPU, and whether it did.

Where the link decides, the simulator predicts by what was measured beforehand (copy times by size), so it is held to
it. Where software decides, one overhead per layer stands for all of Python: what is expected there is stated, and
nothing hangs on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Criterion:
    """A figure over the cells of one kind (see real.validation.compare.decides), and what it is expected to be.

    ``judged``: whether a validation fails by it; else the figure is stated and expected, no more.
    """

    name: str
    over: str
    what: str
    least: float | None = None
    most: float | None = None
    judged: bool = True


CRITERIA = (
    Criterion(
        "link_rate", "link", "median of the link's GB/s while it copies, over the table's at that size", 0.95, 1.05
    ),
    Criterion("tpot_median", "link", "median error of TPOT", most=0.05),
    Criterion("tpot_worst", "link", "worst error of TPOT", most=0.15),
    Criterion("hits_worst", "all", "worst error of the complete hit rate of policies that predict nothing", most=0.0),
    Criterion("tpot_software", "software", "median error of TPOT where software decides", most=0.25, judged=False),
)


def criteria(rows: Sequence[Mapping[str, Any]], *, own: bool = True) -> list[dict[str, Any]]:
    """Each criterion with its figure, the cells that it is over, and whether it holds; null where there is no cell.

    ``own``: the prices were measured on this very device; by others no time is judged.
    """
    return [_judged(each, rows, own) for each in CRITERIA]


def _judged(it: Criterion, rows: Sequence[Mapping[str, Any]], own: bool) -> dict[str, Any]:
    values = [x for row in rows if it.over in ("all", row["decides"]) if (x := _figure(it.name, row)) is not None]
    value = None if not values else max(values) if it.name.endswith("_worst") else median(values)
    holds = value is None or ((it.least is None or value >= it.least) and (it.most is None or value <= it.most))
    return {
        "name": it.name,
        "what": it.what,
        "over": it.over,
        "cells": len(values),
        "value": value,
        "least": it.least,
        "most": it.most,
        "judged": it.judged and (own or it.over == "all"),
        "holds": holds if value is not None else None,
    }


def _figure(name: str, row: Mapping[str, Any]) -> float | None:
    if name == "link_rate":
        share: float | None = row["link"]["of_table"]
        return share
    key = "hit_complete" if name.startswith("hits") else "tpot_ms"
    error: float | None = row["errors"][key]["error"]
    if key == "hit_complete" and row["errors"]["hit_recall"]["device"] is not None:
        return None  # what a prediction brings in time depends on the clock
    return None if error is None else abs(error)
