"""What crosses the link: the fates of prefetches, how busy the link is, and the bytes beside their bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.core.accounts import FATES
from sim.results.pictures.bars import Stack, stacked
from sim.results.pictures.colours import ENDS, Looks, looks
from sim.results.pictures.findings import about, differs, number, span, times
from sim.results.pictures.lines import Figures
from sim.results.pictures.style import Picture, Sheet, by_budget
from traces.kit.drawing import EmptyPictureError

if TYPE_CHECKING:
    import pandas as pd

MB = 1e-6


@Picture
def fates(runs: pd.DataFrame, page: int | None = 1) -> Sheet:
    """From ``sim.load``: prefetches, by what became of them; most first.

    A panel per budget, or more where there are many policies. Those that issued none at a budget have no bar there.
    EmptyPictureError where no policy issued any, and after the last page.
    """
    parts = {f"prefetch_{fate}": (fate.replace("_", " "), ENDS[fate]) for fate in FATES}
    frame = by_budget(runs, "prefetch_issued", *parts)
    frame = frame[frame["prefetch_issued"] > 0]
    if frame.empty:
        raise EmptyPictureError("no policy here prefetches")

    def title(own: pd.DataFrame) -> str:
        in_time = (own["prefetch_useful"] / own["prefetch_issued"]).max()
        most = f"at best {number(100 * in_time)} %" if len(own) > 1 else f"{number(100 * in_time)} %"
        return f"{most} of the prefetches were useful" if in_time else "no prefetch was useful"

    frame = frame.assign(
        note=[
            f"{useful / issued:.0%} useful".replace("%", " %")
            for useful, issued in zip(frame["prefetch_useful"], frame["prefetch_issued"], strict=True)
        ]
    )
    bars = Stack(frame, parts, "prefetches", title, largest=True)
    return stacked(bars, "What became of the prefetches", about(runs), page)


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
