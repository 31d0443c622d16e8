"""Where a token's time goes: compute, and every wait by its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.core.accounts import STALLS
from sim.results.pictures.bars import Stack, stacked
from sim.results.pictures.colours import CAUSES, COMPUTE
from sim.results.pictures.findings import about, number
from sim.results.pictures.style import Picture, Sheet, by_budget
from traces.kit.drawing import EmptyPictureError

if TYPE_CHECKING:
    import pandas as pd


@Picture
def stalls(runs: pd.DataFrame, page: int | None = 1) -> Sheet:
    """From ``sim.load``: ms per generated token, stacked; the parts add up to the whole window (rule 5).

    A panel per budget, or more where there are many policies; the fastest first, beside the time lower bound; lossy
    ones apart, below.
    EmptyPictureError where no tokens were generated, where nothing stalls, and after the last page.
    """
    parts = {"compute_ms_per_token": ("compute", COMPUTE)}
    parts |= {f"stall_{name}_ms_per_token": (f"waits: {name.replace('_', ' ')}", CAUSES[name]) for name in STALLS}
    frame = by_budget(runs, *parts, "bound_ms_per_token").dropna(subset=["compute_ms_per_token"])
    if frame.empty:
        raise EmptyPictureError("no tokens were generated")
    total = frame[list(parts)].sum(axis=1)
    if (total == frame["compute_ms_per_token"]).all():
        each = number(frame["compute_ms_per_token"].max())
        raise EmptyPictureError(f"nothing stalls: compute is all of the time, at most {each} ms per generated token")
    frame = frame.assign(total=total, note=[f"{number(ms)} ms" for ms in total])

    def title(own: pd.DataFrame) -> str:
        of = ", lossy policies apart" if len(set(own["lossless"])) > 1 else ""
        own = own[own["lossless"]] if own["lossless"].any() else own
        shares = 1 - own["compute_ms_per_token"] / own["total"]
        low, high = number(100 * shares.min()), number(100 * shares.max())
        return f"{low if low == high else f'{low} to {high}'} % of the time is waiting{of}"

    bars = Stack(frame, parts, "time per generated token (ms)", title, floor="bound_ms_per_token")
    return stacked(bars, "Where the time of a generated token goes", about(runs), page)
