"""How far a recording is: its rate, and the time that is left."""

import time

from traces.kit.telling import left

EVERY_S = 2.0


class Progress:
    """Told of every group that is done.

    `most_rows`: what all requests record at most; the time left is what that would take, so it shrinks in jumps
    where answers end early. Requests and rows that an earlier run recorded count as done, but not in the rate.
    """

    def __init__(self, requests: int, most_rows: int, done_requests: int, done_rows: int) -> None:
        self._requests, self._most = requests, most_rows
        self._done, self._rows, self._before = done_requests, done_rows, done_rows
        self._began_s = time.monotonic()

    def add(self, requests: int, rows: int, most_rows: int) -> None:
        """`requests` more are done: they recorded `rows`, of `most_rows` that were thought possible."""
        self._done += requests
        self._rows += rows
        self._most -= most_rows - rows

    def state(self) -> tuple[float, str]:
        """The share of the rows, and a line, as traces.kit.telling.showing has them."""
        seconds, here = time.monotonic() - self._began_s, self._rows - self._before
        line = f"recorded {self._done}/{self._requests} requests, {self._rows} tokens"
        if here:
            line += f", {here / max(seconds, 1e-9):.0f} tokens/s"
        if here and self._done < self._requests:
            line += f", at most {left(here, self._most - self._before, seconds)} left"
        return self._rows / max(1, self._most), line
