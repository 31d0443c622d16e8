"""What pictures of runs share: how panels make a figure, means by policy and budget, and pages of a tall picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from itertools import groupby
from typing import TYPE_CHECKING, Generic, ParamSpec

from matplotlib.figure import Figure

from sim.results.classes import marked, outputs
from traces.kit.drawing import EmptyPictureError
from traces.kit.errors import UserError, one_of
from traces.kit.panels import Panel, together

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
ROWS = 32
"""Bars or rows of a heat map in one picture: what fits a screen and a sheet of paper."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a picture consists of."""

    panels: list[Panel]
    title: str
    """Of several panels; a single one has its own, unless the picture is ``titled``."""
    about: str
    columns: int = 2
    sharey: bool = False
    titled: bool = False


class Picture(Generic[P]):
    """A function that makes a :class:`Sheet`, as one that makes its Figure; ``sheet``: for a page, an image a panel."""

    def __init__(self, sheet: Callable[P, Sheet]) -> None:
        self.sheet = sheet
        update_wrapper(self, sheet)

    def __call__(self, *args: P.args, **given: P.kwargs) -> Figure:
        """Draw all panels together."""
        it = self.sheet(*args, **given)
        title = it.title if it.titled or len(it.panels) > 1 else ""
        return together(it.panels, title, it.about, it.columns, **({"sharey": True} if it.sharey else {}))


def need(frame: pd.DataFrame, *columns: str) -> None:
    """UserError where a frame has no rows or lacks a column: it is of something else."""
    for name in columns:
        if name not in frame.columns:
            raise UserError(f"a frame without the column {name}; it has: {one_of(map(str, frame.columns[:8]))}, ...")
    if frame.empty:
        raise EmptyPictureError("no runs")


def by_budget(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Means over seeds: a row per policy_label and budget_bytes, ``columns``, lossless as a bool, output; sorted.

    ``name``: the label as it is drawn; that of a policy that is not lossless says so.
    """
    need(runs, "policy_label", "budget_bytes", "lossless", *columns)
    frame = runs.assign(lossless=runs["lossless"].astype(bool), output=outputs(runs))
    keys = ["policy_label", "lossless", "output", "budget_bytes"]
    return named(frame.groupby(keys, sort=True)[list(columns)].mean().astype("float64").reset_index())


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """With the columns ``name`` and ``output``."""
    output = outputs(frame)
    return frame.assign(name=list(map(marked, frame["policy_label"], output)), output=output)


def pages_of(groups: Sequence[Hashable], page: int | None) -> tuple[list[slice], str]:
    """Which rows page ``page`` shows, from 1, and what its title adds; None: those of each page.

    ``groups``: what each row belongs to; one (a budget) is divided only where it alone is too long. EmptyPictureError
    where there is no such page.
    """
    pages: list[slice] = []
    end = 0
    for _, members in groupby(groups):
        left = len(list(members))
        while left:
            size = min(left, ROWS)
            if pages and end + size - pages[-1].start <= ROWS:
                pages[-1] = slice(pages[-1].start, end + size)
            else:
                pages.append(slice(end, end + size))
            end, left = end + size, left - size
    if page is None:
        return pages, ""
    if not 1 <= page <= len(pages):
        raise EmptyPictureError(f"page={page}: there are {len(pages)}")
    return [pages[page - 1]], "" if len(pages) == 1 else f" ({page} of {len(pages)})"
