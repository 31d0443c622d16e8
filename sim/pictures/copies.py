"""What crosses the link: the fates of prefetches, how busy the link is, and the bytes beside their bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sim.core.accounts import FATES
from sim.pictures.bars import stacked
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

if TYPE_CHECKING:
    import pandas as pd

MB = 1e-6


def fates(runs: pd.DataFrame, page: int = 1) -> Figure:
    """From ``sim.load``: the five fates as shares of the loads issued ahead (%), with how many were issued.

    Policies that issued none at a budget have no bar there. EmptyPictureError where no policy issued any, and after
    the last page.
    """
    columns = {f"prefetch_{fate}": fate.replace("_", " ") for fate in FATES}
    frame = by_budget(runs, "prefetch_issued", *columns)
    frame = frame[frame["prefetch_issued"] > 0]
    if frame.empty:
        raise EmptyPictureError("no policy here copies ahead")
    shares = {column: 100 * frame[column] / frame["prefetch_issued"] for column in columns}
    frame = frame.assign(**shares, note=[f"{issued:,.0f} loads" for issued in frame["prefetch_issued"]])
    return stacked(frame, columns, "share of the loads issued ahead (%)", "what became of prefetches", "note", page)


def link(runs: pd.DataFrame, look: Looks | None = None) -> Figure:
    """From ``sim.load``: how busy the link was (%), and MB copied per generated token beside ``belady_bypass``."""
    wanted = ("link_utilisation", "bytes_per_token", "bound_bytes", "generated_tokens", "belady_forced_bytes_per_token")
    frame = by_budget(runs, *wanted)
    if not frame[["link_utilisation", "bytes_per_token"]].notna().any(axis=None):
        raise EmptyPictureError("no time passed")
    frame = frame.assign(floor=frame["bound_bytes"] / frame["generated_tokens"])
    style = look or looks(runs["policy_label"])
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves(left, frame, "link_utilisation", style, 100)
    over_budgets(left, frame["budget_bytes"], "link utilisation", "time that the link is busy (%)")
    left.set_ylim(0, 104)
    curves(right, frame, "bytes_per_token", style, MB)
    floor = frame.dropna(subset=["floor"]).groupby("budget_bytes")["floor"].mean() * MB
    reference(right, frame, "belady_forced", wanted[-1], MB)
    if len(floor):
        bound(right, floor, "belady_bypass (bound, lossless)")
    over_budgets(right, frame["budget_bytes"], "bytes over the link", "copied per generated token (MB)")
    from_zero(right)
    return legend(figure, left, right)
