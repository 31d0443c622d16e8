"""Latency against budget, with intervals, what cheats and what is wanted; and time beside the bound that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.frame import LATENCIES, LATENCY_NAMES, REFERENCE_ROWS
from sim.pictures.style import (
    EmptyPictureError,
    Looks,
    Panel,
    bound,
    by_budget,
    curves,
    from_zero,
    looks,
    name,
    over_budgets,
    reference,
    together,
)
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

    from sim.compare.target import Target

NAMES = {"ttft": "time to first token", "tpot": "time per output token", "request": "time of a request"}
