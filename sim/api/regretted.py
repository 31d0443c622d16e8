"""``sim.regret``: what runs leave to be gained, as ``python -m sim regret`` has it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.experiment.regret_table import evictions_of, figures_of, picture_of, show
from sim.experiment.regrets import Regrets, regrets
from traces.kit.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console


@dataclass(frozen=True, eq=False, repr=False)
class Regret(Shown):
    """What the runs of a folder leave to be gained; it shows itself as ``python -m sim regret`` prints it."""

    found: Regrets

    def draw(self, console: Console) -> None:
        show(self.found, console)

    @property
    def frame(self) -> pd.DataFrame:
        """A row per run: policy_label, budget_bytes, seed, folder, hosted; ms_per_token, bound_ms_per_token, and of the
        gap between them the parts gap_victims, gap_one_layer, gap_further, gap_admission and gap_rest, in ms per
        generated token; evictions, of these worse, and the mean of events_sooner."""
        return figures_of(self.found.rows)

    @property
    def evictions(self) -> pd.DataFrame:
        """A row per run and kind of its evictions: policy_label, budget_bytes, seed; ``by`` phase, layer (of the
        victim) or age (passes since the victim's last demand), and which, ``kind``; evictions, of these ``worse``, and
        regret_events, by how many layer events in all their victims came back sooner than Belady's."""
        return evictions_of(self.found.rows)

    @property
    def document(self) -> dict[str, Any]:
        """What ``format=json`` prints."""
        return self.found.document()

    def picture(self, page: int = 1) -> Figure:
        """The parts of the gaps, a panel for each budget. EmptyPictureError where there is none."""
        return picture_of(self.found, page)


def regret(path: str | Path = "outputs", *selection: str, only: Collection[str] | None = None) -> Regret:
    """Where the time goes that the runs below a folder take beyond the bound, and by which of their evictions.

    ``selection``: words that choose runs, such as ``"budget=4GB,8GB"``; ``only``: the names of the runs' folders. Runs
    are replayed for it, and what was found is kept in the folder. UserError for a mistake, and for runs that are not
    alike.
    """
    return Regret(regrets(path, selection, only))
