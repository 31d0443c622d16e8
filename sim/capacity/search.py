"""Which rates are tried, and the search for the highest one that does: attainment need not fall as the rate rises."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction

LOWEST, HIGHEST = -10, 12
"""Powers of two, requests per second: between these it is looked for."""


def parts(within: float) -> int:
    """Steps per doubling, the least power of two whose steps are no larger than ``within`` (0.05: 16, steps of 4.4 %).

    Grids of larger ``within`` are parts of those of smaller ones, so that their cells are the same.
    """
    found = 1
    while 2 ** (1 / found) - 1 > within:
        found *= 2
    return found


def rate(step: int, per_octave: int) -> int | float:
    """Requests per second of a step: 2 ** (step / per_octave), to four digits, as one types it."""
    if not step % per_octave:
        exact = Fraction(2) ** (step // per_octave)
        return int(exact) if exact.denominator == 1 else float(exact)
    return float(f"{2 ** (step / per_octave):.4g}")


def knee(per_octave: int) -> Generator[int, bool, int | None]:
    """Ask for steps, be told whether each does, and return the highest that does, of which the next two do not; None
    where neither 1/s nor the lowest rate does.

    From 1/s by doubling or halving, then by bisection. What that finds has a next step that does not; the one after
    that is asked for as well, and the one below, in case what does is no single range; from one that does it goes on.
    """
    low, high = 0, HIGHEST * per_octave
    if (yield 0):
        step = per_octave
        while step <= HIGHEST * per_octave and (yield step):
            low, step = step, step + per_octave
        if low == high:
            return low
        high = step
    else:
        if not (yield LOWEST * per_octave):
            return None
        low, high = -per_octave, 0
        while not (yield low):
            low, high = low - per_octave, low
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            if (yield middle):
                low = middle
            else:
                high = middle
        if high + 1 > HIGHEST * per_octave or not (yield high + 1):
            break
        low, high = high + 1, high + 2
        while high <= HIGHEST * per_octave and (yield high):
            low, high = high, high + 1
    if low > LOWEST * per_octave:
        yield low - 1
    return low
