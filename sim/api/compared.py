"""``sim.compare``: the policies of a folder of results, as ``python -m sim compare`` has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.results.compare import Comparison
from sim.results.compare import compare as compared
from sim.results.compare.cli import document
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.table import show
from traces.kit.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@dataclass(frozen=True, eq=False, repr=False)
class Compared(Shown):
    """A comparison; it shows itself as ``python -m sim compare`` prints it."""

    found: Comparison
    """Its frames and how it was made: ``cells``, ``pairs``, ``overall``, ``references``, ``targets``, ``runs``."""

    def draw(self, console: Console) -> None:
        show(self.found, console)

    @property
    def frame(self) -> pd.DataFrame:
        """A row per policy and budget: the metric with its interval, and what stands beside it."""
        return self.found.cells

    @property
    def conclusions(self) -> list[str]:
        """Sentences on what was found."""
        return conclude(self.found)

    @property
    def limits(self) -> list[str]:
        """Sentences on what may not be concluded."""
        return limits(self.found)

    @property
    def document(self) -> dict[Any, Any]:
        """What ``format=json`` prints."""
        return document(self.found)


def compare(
    path: str | Path = "outputs",
    *selection: str,
    metric: str = "tpot",
    baseline: str | None = None,
    target: str | None = None,
    level: float = 0.95,
    only: Collection[str] | None = None,
) -> Compared:
    """Compare the runs below a folder. ``selection``: words that choose runs, such as ``"budget=4GB,8GB"``.

    ``metric``: tpot, ttft or request; ``baseline``: the policy that the others are compared with; ``target``: such as
    ``"tpot<=30ms"``; ``level``: of the intervals; ``only``: the names of the runs' folders. UserError for a mistake,
    and for runs that are not alike.
    """
    chosen: Sequence[str] = selection
    return Compared(
        compared(path, metric=metric, baseline=baseline, target=target, level=level, selection=chosen, only=only)
    )
