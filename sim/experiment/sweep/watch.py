"""The progress of a sweep on stderr: cells done of all, failures, and the time that is left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.5
LINE_S = 10.0
"""How often a line is written where nobody looks at a terminal."""


@contextmanager
def watched(count: Callable[[], tuple[int, int]], total: int) -> Iterator[None]:
    """Show ``count()`` -> (cells done, failed among them) of ``total`` until the block ends."""
    over = threading.Event()
    began = time.monotonic()
    terminal = sys.stderr.isatty()

    def look() -> None:
        written = began
        while not over.wait(LOOK_S):
            now = time.monotonic()
            if terminal or now - written >= LINE_S:
                written = now
                line = progress_line(*count(), total, now - began)
                sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
                sys.stderr.flush()
        if terminal:
            sys.stderr.write("\r\x1b[K")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def progress_line(done: int, failed: int, total: int, seconds: float) -> str:
    """``cells 12 of 60, 1 failed, about 3:20 left``, the rest expected to take as long per cell as what is done."""
    line = f"cells {done} of {total}" + (f", {failed} failed" if failed else "")
    if not done:
        return line
    left = round(seconds / done * max(0, total - done))
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"
    return f"{line}, about {clock} left"
