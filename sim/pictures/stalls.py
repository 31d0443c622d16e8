"""Where a token's time goes: compute, and every wait by its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sim.core.accounts import STALLS
from sim.pictures.bars import stacked
from sim.pictures.style import EmptyPictureError, by_budget

if TYPE_CHECKING:
    import pandas as pd


def stalls(runs: pd.DataFrame, page: int = 1) -> Figure:
    """From ``sim.load``: ms per generated token, stacked; the parts add up to the whole window (rule 5).

    EmptyPictureError where no tokens were generated, and after the last page.
    """
    parts = {"compute_ms_per_token": "compute"}
    parts |= {f"stall_{name}_ms_per_token": f"stall: {name.replace('_', ' ')}" for name in STALLS}
    frame = by_budget(runs, *parts).dropna(subset=["compute_ms_per_token"])
    if frame.empty:
        raise EmptyPictureError("no tokens were generated")
    frame = frame.assign(note=[f"{total:#.3g}".rstrip(".") + " ms" for total in frame[list(parts)].sum(axis=1)])
    return stacked(frame, parts, "time per generated token (ms)", "where the time goes", "note", page)
