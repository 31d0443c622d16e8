"""Progress of a recording, in plain lines on stderr: rate, and the time that is left."""

from __future__ import annotations

import sys
import time

EVERY_S = 2.0


class Progress:
    """Told of every group that is done, prints at most one line per EVERY_S seconds, and the last.

    `most_rows`: what all requests record at most; the time left is what that would take, so it shrinks in jumps
    where answers end early. Requests and rows that an earlier run recorded count as done, but not in the rate.
    """

    def __init__(self, requests: int, most_rows: int, done_requests: int, done_rows: int) -> None:
        self._requests, self._most = requests, most_rows
        self._done, self._rows, self._here = done_requests, done_rows, 0
        self._started_s = self._printed_s = time.monotonic()

    def add(self, requests: int, rows: int, most_rows: int) -> None:
        """`requests` more are done: they recorded `rows`, of `most_rows` that were thought possible."""
        self._done += requests
        self._rows += rows
        self._here += rows
        self._most -= most_rows - rows
        now = time.monotonic()
        if now - self._printed_s >= EVERY_S or self._done == self._requests:
            self._printed_s = now
            self._print(now - self._started_s)

    def _print(self, elapsed_s: float) -> None:
        rate = self._here / max(elapsed_s, 1e-9)
        left = "" if self._done == self._requests else f", at most {duration((self._most - self._rows) / rate)} left"
        line = f"recorded {self._done}/{self._requests} requests, {self._rows} tokens, {rate:.0f} tokens/s{left}"
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(n_bytes: int) -> str:
    """85 KB, 16.1 MB, 2.3 GB."""
    if n_bytes < 1e6:
        return f"{n_bytes / 1e3:.0f} KB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"
