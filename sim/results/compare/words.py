"""Figures of a comparison in words: shares, milliseconds, budgets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


def unit(runs: pd.DataFrame) -> str:
    """What a comparison counts: requests, or arrivals, of which several may replay one request."""
    return "arrival" if runs["workload"].iloc[0] == "online" else "request"


def percent(level: float) -> str:
    """``95 %``, ``99.9 %``."""
    return f"{100 * level:.6g} %"


def milliseconds(value: float, least: float = math.inf) -> str:
    """Two decimals, or as many as give the smallest of the figures beside it, ``least``, three digits."""
    if math.isnan(value):
        return "-"
    small = min(abs(value), least)
    decimals = 2 if small >= 1 or small == 0 else min(6, 2 - math.floor(math.log10(small)))
    return f"{value:,.{decimals}f}"


def signed(value: float) -> str:
    """A share as percent with its sign: ``-4.0``; ``-`` where there is none."""
    return "-" if math.isnan(value) else f"{100 * value:+,.1f}"


def sizes(values: Iterable[float]) -> str:
    """Shares from the least to the largest, without signs: ``6 to 17 %``, ``1.2 to 2.3 %``, ``8.1 %``.

    Several that are large are told in whole numbers: each stands in the table.
    """
    ends = sorted(abs(100 * value) for value in values)
    digits = 0 if ends[0] >= 4.95 and len(ends) > 1 else 1
    low, high = f"{ends[0]:.{digits}f}", f"{ends[-1]:.{digits}f}"
    return f"{high} %" if low == high else f"{low} to {high} %"


def interval(low: float, high: float) -> str:
    """Of a difference whose sign is said, from its smaller end: ``8.1 to 15.4 %``."""
    near, far = sorted((abs(100 * low), abs(100 * high)))
    return f"{far:.1f} %" if f"{near:.1f}" == f"{far:.1f}" else f"{near:.1f} to {far:.1f} %"


def first(words: Sequence[str], most: int = 8) -> str:
    """``a, b, c`` as far as a sentence holds them: ``a, b and 3 more``."""
    more = len(words) - most
    return ", ".join(words) if more <= 0 else f"{', '.join(words[:most])} and {more} more"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def budgets(some: Iterable[int], every: Iterable[int]) -> str:
    """Budgets in bytes: ``2 to 10 GB`` where at least three of them follow one another among ``every``.

    Else one by one: ``2, 4 and 10 GB``. A unit that all have is written once.
    """
    chosen, places = sorted(set(some)), sorted(set(every))
    first = places.index(chosen[0])
    row = len(chosen) > 2 and places[first : first + len(chosen)] == chosen
    texts = [format_bytes(budget) for budget in ((chosen[0], chosen[-1]) if row else chosen)]
    if len({text.split()[1] for text in texts}) == 1:
        texts = [*(text.split()[0] for text in texts[:-1]), texts[-1]]
    return " to ".join(texts) if row else listed(texts)
