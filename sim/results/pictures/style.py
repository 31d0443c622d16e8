"""What pictures of runs share: means by policy and budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.kit.drawing import EmptyPictureError
from traces.kit.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd


def need(frame: pd.DataFrame, *columns: str) -> None:
    """UserError where a frame has no rows or lacks a column: it is of something else."""
    for name in columns:
        if name not in frame.columns:
            raise UserError(f"a frame without the column {name}; it has: {one_of(map(str, frame.columns[:8]))}, ...")
    if frame.empty:
        raise EmptyPictureError("no runs")


def by_budget(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Means over seeds: a row per policy_label and budget_bytes, ``columns``, and lossless as a bool; sorted.

    ``name``: the label as it is drawn; that of a lossy policy says so.
    """
    need(runs, "policy_label", "budget_bytes", "lossless", *columns)
    frame = runs.assign(lossless=runs["lossless"].astype(bool))
    keys = ["policy_label", "lossless", "budget_bytes"]
    found = frame.groupby(keys, sort=True)[list(columns)].mean().astype("float64").reset_index()
    return found.assign(name=found["policy_label"].where(found["lossless"], found["policy_label"] + " (lossy)"))
