"""Progress of a replay, if a person is looking."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from traces.kit.telling import showing

Progress = Callable[[str, int, int], None]
"""``progress(row, tokens done, tokens in all)``"""


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yield what to tell, or None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    now = "", 0, 1

    def note(row: str, done: int, total: int) -> None:
        nonlocal now
        now = row, done, total

    def state() -> tuple[float, str]:
        row, done, total = now
        return done / total, f"{row}: {done:,} of {total:,} tokens" if row else ""

    with showing(state, None):
        yield note
