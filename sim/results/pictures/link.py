"""What crosses the link: how busy it is, and the bytes beside their bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import about, differs, number, span, times
from sim.results.pictures.lines import Figures
from sim.results.pictures.style import Picture, Sheet, by_budget
from traces.kit.drawing import EmptyPictureError

if TYPE_CHECKING:
    import pandas as pd

MB = 1e-6


@Picture
def link(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: how busy the link was (%), and MB copied per generated token beside ``belady_bypass``.

    EmptyPictureError where no time passed, nothing was copied, or there is one run alone.
    """
    wanted = ("link_utilisation", "bytes_per_token", "bound_bytes", "generated_tokens", "belady_forced_bytes_per_token")
    frame = by_budget(runs, *wanted)
    frame = frame.assign(floor=frame["bound_bytes"] / frame["generated_tokens"])
    if not frame[["link_utilisation", "bytes_per_token"]].notna().any(axis=None):
        raise EmptyPictureError("no time passed")
    style, panels = look or looks(runs["policy_label"]), []
    if differs(frame["link_utilisation"]):
        busy = Figures(frame, "link_utilisation", "time that the link is busy (%)", style, scale=100, share=True)
        panels.append(busy.panel(f"The link is busy {span(frame, 'link_utilisation')} of the time"))
    if differs(frame["bytes_per_token"]):
        words = "no lossless policy copies so little"
        cheats = {"belady_forced": wanted[-1]}
        copied = Figures(
            frame, "bytes_per_token", "copied per generated token (MB)", style, MB, False, cheats, "floor", words
        )
        said = times(frame[frame["lossless"]], "bytes_per_token", "floor")
        panels.append(copied.panel(f"The best copies {said} the bytes of the bound" if said else "Bytes over the link"))
    if not panels:
        busy_, bytes_ = frame["link_utilisation"].iloc[0], frame["bytes_per_token"].iloc[0]
        raise EmptyPictureError(
            f"the same for all runs: the link is busy {number(100 * busy_)} % of the time, {number(MB * bytes_)} MB are"
            " copied per generated token"
        )
    return Sheet(panels, "What crosses the link", about(runs))
