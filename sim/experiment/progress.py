"""A progress bar on stderr for long replays, if a person is looking."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""``progress(row, tokens done, tokens in all)``"""

PATIENCE_S = 1.0
"""A replay that ends sooner shows nothing."""


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yield what to tell, or None where stderr is not a terminal; the bar is gone afterwards."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    bar = Bar(console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}
    began = shown = time.monotonic()

    def note(row: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - began < PATIENCE_S or (now - shown < 0.1 and done < total):
            return
        shown = now
        if row not in tasks:
            bar.start()
            tasks[row] = bar.add_task(row, total=total)
        bar.update(tasks[row], completed=done)

    try:
        yield note
    finally:
        bar.stop()
