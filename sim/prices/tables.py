"""Measured points as costs: straight lines between them, in exact arithmetic, rounded up once.

Exact at every measured point and monotone, as the points must be. Beyond them the asymptotes are stated here and
nowhere else.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise


class Table:
    """A duration by amount (bytes, tokens) through measured points: amounts rise, durations do not fall.

    Below the smallest amount its first segment goes on, so that the overhead of a call stays; where that would
    cost less than the smallest's own rate, the rate holds. Above the largest amount, the largest's rate holds.
    Nothing costs nothing.
    """

    def __init__(self, amounts: Sequence[int], ns: Sequence[int]) -> None:
        _check_axis(amounts)
        if len(amounts) != len(ns) or ns[0] <= 0 or any(a > b for a, b in pairwise(ns)):
            raise ValueError("durations: one per amount, above 0, none below the one before it")
        self._amounts, self._ns = tuple(amounts), tuple(ns)
        # A straight line's rate is best at one of its ends, so no amount beats the best measured point.
        self._best = min(Fraction(n, a) for a, n in zip(amounts, ns, strict=True))

    def ns(self, amount: int) -> int:
        return _ceil(self.exact(amount))

    def exact(self, amount: int) -> Fraction:
        """The duration before it is rounded."""
        x, y = self._amounts, self._ns
        if amount <= 0:
            return Fraction(0)
        if amount >= x[-1]:
            return Fraction(y[-1] * amount, x[-1])
        place = bisect_right(x, amount)
        if place:
            return _line(amount, x[place - 1], x[place], y[place - 1], y[place])
        rate = Fraction(y[0] * amount, x[0])
        return max(rate, _line(amount, x[0], x[1], y[0], y[1])) if len(x) > 1 else rate

    def floor_ns(self, amount: int) -> int:
        return self._best.numerator * amount // self._best.denominator


class Grid:
    """A duration by tokens and context: `ns[i][j]` at `tokens[i]` and `contexts[j]`, falling along neither.

    Linear between the points along the context, then along the tokens. Beyond the longest context each row goes on
    with the steepest last segment of the rows up to it; above the most tokens, their rate holds. The grid begins at
    one token without context.
    """

    def __init__(self, tokens: Sequence[int], contexts: Sequence[int], ns: Sequence[Sequence[int]]) -> None:
        _check_axis(tokens)
        if tokens[0] != 1 or contexts[0] != 0 or any(a >= b for a, b in pairwise(contexts)):
            raise ValueError("a grid begins at 1 token and context 0, and both rise")
        if len(ns) != len(tokens) or any(len(row) != len(contexts) for row in ns):
            raise ValueError("durations: one row per number of tokens, one duration per context in each")
        columns = [list(column) for column in zip(*ns, strict=True)]
        if ns[0][0] <= 0 or any(a > b for line in [*ns, *columns] for a, b in pairwise(line)):
            raise ValueError("durations: above 0, none below the one before it, along tokens and along context")
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
            return _ceil(self._row(-1, context) * tokens / x[-1])
        place = bisect_right(x, tokens)
        low, high = self._row(place - 1, context), self._row(place, context)
        return _ceil(_line(tokens, x[place - 1], x[place], low, high))

    def _row(self, row: int, context: int) -> Fraction:
        x, y = self._contexts, self._ns[row]
        if context >= x[-1]:
            return y[-1] + self._slopes[row] * (context - x[-1])
        place = bisect_right(x, context)
        return _line(context, x[place - 1], x[place], y[place - 1], y[place])


def _line(x: int, x0: int, x1: int, y0: Fraction | int, y1: Fraction | int) -> Fraction:
    return y0 + (y1 - y0) * Fraction(x - x0, x1 - x0)


def _check_axis(amounts: Sequence[int]) -> None:
    if not amounts or amounts[0] <= 0 or any(a >= b for a, b in pairwise(amounts)):
        raise ValueError("amounts: at least one, above 0, rising")


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
