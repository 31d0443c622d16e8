"""Latency against budget, with the bound that it cannot beat and the rows that cheat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.frame import LATENCIES, LATENCY_NAMES, REFERENCE_ROWS
from sim.pictures.style import (
    EmptyPictureError,
    Looks,
    bound,
    by_budget,
    curves,
    from_zero,
    legend,
    looks,
    over_budgets,
    reference,
)
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"ttft": "time to first token", "tpot": "time per output token", "request": "time of a request"}


def latency(runs: pd.DataFrame, metric: str = "tpot", look: Looks | None = None) -> Figure:
    """From ``sim.load``: the mean of a latency (ttft, tpot, request; ms) and the time per generated token (ms).

    The time lower bound is one of the whole window, so it stands in the second panel. Lossy policies have a row of
    panels of their own, with the gate mass that they keep (rule 8). EmptyPictureError where no run has the latency.
    """
    if metric not in LATENCIES:
        raise UserError(f"metric={metric}: allowed: {one_of(LATENCIES)}")
    column = f"{metric}_ms_mean"
    cheats = [f"{name}_{part}" for name in REFERENCE_ROWS for part in (column, "throughput_tokens_per_s")]
    wanted = (column, "throughput_tokens_per_s", "bound_ms_per_token", "quality_kept_gate_mass", *cheats)
    frame = by_budget(runs, *wanted)
    frame = frame[frame[column].notna()]
    if frame.empty:
        raise EmptyPictureError(f"no run has {metric}: what the trace did not record is null")
    frame = frame.assign(window=1000 / frame["throughput_tokens_per_s"])
    classes = [own for lossless in (True, False) if len(own := frame[frame["lossless"] == lossless])]
    figure = Figure(figsize=(11, 0.9 + 3.9 * len(classes)), layout="constrained")
    panels = figure.subplots(len(classes), 2, squeeze=False)
    style = look or looks(runs["policy_label"])
    for own, (left, right) in zip(classes, panels, strict=True):
        lossless = bool(own["lossless"].iloc[0])
        kind = "lossless" if lossless else "lossy, not ranked with the others"
        curves(left, own, column, style)
        if lossless:
            for name in REFERENCE_ROWS:
                reference(left, own, name, f"{name}_{column}")
        over_budgets(left, own["budget_bytes"], f"{NAMES[metric]} ({kind})", f"{LATENCY_NAMES[metric]} (ms), mean")
        from_zero(left)
        if lossless:
            _window(right, own, style)
        else:
            right.set_visible(bool(own["quality_kept_gate_mass"].notna().any()))
            curves(right, own, "quality_kept_gate_mass", style, 100)
            over_budgets(right, own["budget_bytes"], "what that costs, first-order", "kept gate mass (%)")
            right.set_ylim(0, 104)
    return legend(figure, *panels.ravel())


def _window(axes: Axes, own: pd.DataFrame, style: Looks) -> None:
    curves(axes, own, "window", style)
    for name in REFERENCE_ROWS:
        reference(axes, own.assign(window=1000 / own[f"{name}_throughput_tokens_per_s"]), name, "window")
    floor = own.dropna(subset=["bound_ms_per_token"]).groupby("budget_bytes")["bound_ms_per_token"].mean()
    if len(floor):
        bound(axes, floor, "time_lower_bound (bound)")
    over_budgets(axes, own["budget_bytes"], "whole window (lossless)", "time per generated token (ms)")
    from_zero(axes)
