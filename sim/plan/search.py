"""Which budgets are tried, and the search for the least one that does: a latency need not fall as memory grows."""

from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K")
R = TypeVar("R")
STEPS, COARSE = 128, 8
"""Grid of budgets: so many parts of all experts; and every which one is tried whatever is asked."""


class Least(NamedTuple):
    """The least number of a grid that does, and whether the next larger one does not."""

    number: int
    uneven: bool


def size(number: int, total: int) -> int:
    """Bytes of a step of the grid over all ``total`` bytes of experts."""
    return total * number // STEPS


def rungs(total: int, room: int) -> list[int]:
    """Steps of the grid that are tried on a card with this room: those that are also tried on every larger one."""
    return [number for number in range(COARSE, STEPS + 1, COARSE) if size(number, total) <= room]


def least(low: int, high: int, last: int) -> Generator[int, bool, Least]:
    """Ask for numbers of a grid, be told whether each does, and return the least that does.

    ``high`` is known to, ``low`` not to (0: nothing is known below). What is found has a neighbour that does not; the
    one below that is asked for as well, in case what does is no single range, and so is the next above, up to ``last``.
    """
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            if (yield middle):
                high = middle
            else:
                low = middle
        if low < 2 or not (yield low - 1):
            break
        low, high = 0, low - 1
    return Least(high, high < last and not (yield high + 1))


def together(
    searches: Mapping[K, Generator[int, bool, R]], ask: Callable[[Mapping[K, int]], Mapping[K, bool]]
) -> dict[K, R]:
    """Run several searches, a question of each at a time, so that all cores have something to do.

    One whose question ``ask`` leaves out cannot be asked, and has no result.
    """
    found: dict[K, R] = {}
    waiting: dict[K, int] = {}

    def send(key: K, answer: bool | None) -> None:
        try:
            waiting[key] = searches[key].send(answer)  # type: ignore[arg-type]  # None begins a generator
        except StopIteration as done:
            found[key] = done.value

    for key in searches:
        send(key, None)
    while waiting:
        answers = ask(waiting)
        waiting = {}
        for key, answer in answers.items():
            send(key, answer)
    return {key: found[key] for key in searches if key in found}
