"""Rows of a tall picture, divided into pages that fit a screen and a sheet of paper."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

from traces.kit.drawing import EmptyPictureError

ROWS = 32
"""Bars or rows of a heat map in one picture."""


def page_of(groups: Sequence[Hashable], page: int) -> tuple[slice, str]:
    """Which rows page ``page`` shows, from 1, and what its title adds; ``groups``: what each row belongs to.

    A group (a budget) is divided only where it alone is too long. EmptyPictureError where there is no such page.
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
    if not 1 <= page <= len(pages):
        raise EmptyPictureError(f"page={page}: there are {len(pages)}")
    return pages[page - 1], "" if len(pages) == 1 else f" ({page} of {len(pages)})"
