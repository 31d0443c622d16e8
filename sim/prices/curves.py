"""Durations in whole nanoseconds as functions of an amount: straight lines, rooflines, tables, in exact arithmetic."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate


class Affine:
    """`overhead_ns` plus `ns_per_unit` for each unit; the floor leaves the overhead out."""

    def __init__(self, overhead_ns: Fraction, ns_per_unit: Fraction) -> None:
        self._overhead, self._slope, self._scale = _over_one_denominator(overhead_ns, ns_per_unit)

    def ns(self, amount: int) -> int:
        """Duration of `amount` units at once, in ns."""
        return -(-(self._overhead + self._slope * amount) // self._scale)

    def floor_ns(self, amount: int) -> int:
        """At most the sum of :meth:`ns` over any pieces of `amount`, in ns."""
        return self._slope * amount // self._scale


class Roofline:
    """A GPU as two rates: a piece of work takes its flops or its bytes, whichever takes longer."""

    def __init__(self, ns_per_flop: Fraction, ns_per_byte: Fraction) -> None:
        self._per_flop, self._per_byte, self._scale = _over_one_denominator(ns_per_flop, ns_per_byte)

    def ns(self, flops: int, nbytes: int) -> int:
        return -(-max(flops * self._per_flop, nbytes * self._per_byte) // self._scale)


class Table:
    """A duration by amount (bytes, tokens) through measured points: amounts rise, durations do not fall.

    Below the smallest amount its first segment goes on, so that the overhead of a call stays; where that would
    cost less than the smallest's own rate, the rate holds. Above the largest amount, the largest's rate holds.
    Nothing costs nothing.
    """

    def __init__(self, amounts: Sequence[int], ns: Sequence[int]) -> None:
        self._amounts, self._ns = tuple(amounts), tuple(ns)
        # A straight line's rate is best at one of its ends, so no amount beats the best measured point.
        self._best = min(Fraction(n, a) for a, n in zip(amounts, ns, strict=True))

    def ns(self, amount: int) -> int:
        x, y = self._amounts, self._ns
        if amount <= 0:
            return 0
        place = bisect_right(x, amount)
        if place == len(x):
            return ceil(Fraction(y[-1] * amount, x[-1]))
        if place:
            return ceil(_line(amount, x[place - 1], x[place], y[place - 1], y[place]))
        rate = Fraction(y[0] * amount, x[0])
        return ceil(max(rate, _line(amount, x[0], x[1], y[0], y[1])) if len(x) > 1 else rate)

    def floor_ns(self, amount: int) -> int:
        return self._best.numerator * amount // self._best.denominator


class Grid:
    """A duration by tokens and context: `ns[i][j]` at `tokens[i]` and `contexts[j]`, falling along neither.

    Linear between the points along the context, then along the tokens. Beyond the longest context each row goes on
    with the steepest last segment of the rows up to it; above the most tokens, their rate holds. The grid begins at
    one token without context.
    """

    def __init__(self, tokens: Sequence[int], contexts: Sequence[int], ns: Sequence[Sequence[int]]) -> None:
        self._tokens, self._contexts, self._ns = tuple(tokens), tuple(contexts), [tuple(row) for row in ns]
        slopes = [Fraction(0)] * len(tokens)
        if len(contexts) > 1:
            slopes = [Fraction(row[-1] - row[-2], contexts[-1] - contexts[-2]) for row in ns]
        self._slopes = list(accumulate(slopes, max))

    def ns(self, tokens: int, context: int) -> int:
        if tokens <= 0:
            return 0
        x = self._tokens
        if tokens >= x[-1]:
            return ceil(self._row(-1, context) * tokens / x[-1])
        place = bisect_right(x, tokens)
        low, high = self._row(place - 1, context), self._row(place, context)
        return ceil(_line(tokens, x[place - 1], x[place], low, high))

    def _row(self, row: int, context: int) -> Fraction:
        x, y = self._contexts, self._ns[row]
        if context >= x[-1]:
            return y[-1] + self._slopes[row] * (context - x[-1])
        place = bisect_right(x, context)
        return _line(context, x[place - 1], x[place], y[place - 1], y[place])


def _over_one_denominator(a: Fraction, b: Fraction) -> tuple[int, int, int]:
    return a.numerator * b.denominator, b.numerator * a.denominator, a.denominator * b.denominator


def ceil(value: Fraction) -> int:
    """Rounded up."""
    return -(-value.numerator // value.denominator)


def _line(x: int, x0: int, x1: int, y0: Fraction | int, y1: Fraction | int) -> Fraction:
    return y0 + (y1 - y0) * Fraction(x - x0, x1 - x0)
