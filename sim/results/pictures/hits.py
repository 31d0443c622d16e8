"""The four hit rates that papers mix up, each against the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.core.accounts import PHASES
from sim.results.columns import RATES
from sim.results.pictures.colours import Looks, looks
from sim.results.pictures.findings import about, differs, number, span
from sim.results.pictures.lines import Figures
from sim.results.pictures.style import Picture, Sheet, by_budget
from traces.kit.drawing import EmptyPictureError

if TYPE_CHECKING:
    import pandas as pd

MEANING = {
    "recall": "predicted before the gate",
    "resident": "has a slot",
    "complete": "all of it is there",
    "bytes": "share of it that is there",
}


@Picture
def hits(runs: pd.DataFrame, look: Looks | None = None) -> Sheet:
    """From ``sim.load``: a panel per phase and rate; shares of the lookups in %.

    A rate or phase that no run has is left out (recall where nothing predicts), and so is one that is the same
    everywhere: nobody needs a picture of 0. Lossy policies stand with the others: hits are not a ranking, but their
    lookups are those of other experts, so their names say so.
    EmptyPictureError where nothing is left, and where there is one run alone.
    """
    columns = {f"hit_{phase}_{rate}": (phase, rate) for phase in PHASES for rate in RATES}
    frame = by_budget(runs, *columns)
    if frame[list(columns)].isna().all(axis=None):
        raise EmptyPictureError("no run has a lookup")
    style, panels, alike = look or looks(runs["policy_label"]), [], []
    for column, (phase, rate) in columns.items():
        own = frame.dropna(subset=[column])
        if differs(own[column]):
            found = Figures(own, column, f"{phase} lookups (%)", style, scale=100, share=True)
            panels.append(found.panel(f"{rate} ({MEANING[rate]}), {phase}: {span(own, column)}"))
        elif len(own):
            alike.append(f"{rate} in {phase}: {number(100 * own[column].iloc[0])} %")
    if not panels:
        raise EmptyPictureError(f"the same for all runs: {'; '.join(alike)}")
    return Sheet(panels, "Hit rates, over the lookups of each phase", about(runs))
