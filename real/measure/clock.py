"""The verb's own clock: it ends in time, whatever hangs."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GRACE_S = 20.0
"""How long after its limit a step may hang in one call before the process is ended."""


class OutOfTimeError(BaseException):
    """A step has had its time. Like an interrupt: nothing that mends exceptions is to stop it."""


class Clock:
    """Seconds from now on, of which ``reserve_s`` are kept for writing and saying what there is."""

    def __init__(self, seconds: float, reserve_s: float = 5.0) -> None:
        self.reserve_s = min(reserve_s, seconds / 10)
        self._end = time.monotonic() + seconds
        self.seconds = seconds

    def left(self) -> float:
        """Seconds in which something may still be measured."""
        return self._end - self.reserve_s - time.monotonic()

    @contextmanager
    def limit(self, seconds: float, last_words: Callable[[], None]) -> Iterator[None]:
        """OutOfTimeError in the block after so many seconds.

        A call that does not come back even then (a driver's) ends the process, after ``last_words``, with status 1.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a limit is kept by a signal, which only the main thread gets")

        over = False

        def late(*_: Any) -> None:
            if not over:  # else the block ended just before: what is put away below is not to be interrupted
                raise OutOfTimeError

        def stuck() -> None:
            last_words()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

        before = signal.signal(signal.SIGALRM, late)
        guard = threading.Timer(seconds + GRACE_S, stuck)
        guard.daemon = True
        guard.start()
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, seconds))
            yield
        finally:
            over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            guard.cancel()
