"""The four hit rates that papers mix up, each against the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sim.core.accounts import PHASES
from sim.frame import RATES
from sim.pictures.style import EmptyPictureError, Looks, by_budget, curves, legend, looks, over_budgets

if TYPE_CHECKING:
    import pandas as pd

MEANING = {
    "recall": "recall: predicted before the gate",
    "resident": "resident: has a slot",
    "complete": "complete: all of it is there",
    "bytes": "bytes: share of it that is there",
}


def hits(runs: pd.DataFrame, look: Looks | None = None) -> Figure:
    """From ``sim.load``: a row of panels per phase, a panel per rate; shares of the lookups in %.

    A rate or phase that no run has is left out (recall where nothing predicts). Lossy policies stand with the others:
    hits are not a ranking, but their lookups are those of other experts, so their names say so.
    """
    columns = [f"hit_{phase}_{rate}" for phase in PHASES for rate in RATES]
    frame = by_budget(runs, *columns)
    phases = [phase for phase in PHASES if frame[[f"hit_{phase}_{rate}" for rate in RATES]].notna().any(axis=None)]
    rates = [rate for rate in RATES if frame[[f"hit_{phase}_{rate}" for phase in phases]].notna().any(axis=None)]
    if not phases:
        raise EmptyPictureError("no run has a lookup")
    style = look or looks(runs["policy_label"])
    figure = Figure(figsize=(1 + 3.4 * len(rates), 0.9 + 3.4 * len(phases)), layout="constrained")
    panels = figure.subplots(len(phases), len(rates), squeeze=False, sharey=True)
    for row, phase in zip(panels, phases, strict=True):
        drawn = [bool(frame[f"hit_{phase}_{rate}"].notna().any()) for rate in rates]
        for place, (axes, rate) in enumerate(zip(row, rates, strict=True)):
            column, outer = f"hit_{phase}_{rate}", place == drawn.index(True)
            if not drawn[place]:
                axes.set_visible(False)
                continue
            curves(axes, frame, column, style, 100)
            over_budgets(axes, frame["budget_bytes"], MEANING[rate], f"{phase} lookups (%)")
            axes.set_ylim(0, 104)
            axes.title.set_size("medium")
            axes.set_ylabel(f"{phase} lookups (%)" if outer else "")
            axes.tick_params(labelleft=outer)
    # From the right: recall, the leftmost, lacks those that predict nothing, and would put them last.
    return legend(figure, *panels.ravel()[::-1])
