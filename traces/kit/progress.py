"""Progress on stderr: a bar where a person looks at a terminal, gone afterwards; elsewhere a line now and then."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 1.0
"""What ends sooner shows no bar."""


@contextmanager
def showing(state: Callable[[], tuple[float, str]], every_s: float | None) -> Iterator[None]:
    """Until the block ends, show ``state()``: the share that is done, and a line about it.

    ``every_s``: how often the line is written where there is no terminal; None: never. Another thread calls ``state``.
    """
    if sys.stderr.isatty():
        with _bar(state):
            yield
        return
    over = threading.Event()

    def write() -> None:
        while not over.wait(every_s):
            print(state()[1], file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, daemon=True)
    if every_s is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()


def left(done: float, total: float, seconds: float) -> str:
    """``3:20``, ``1:23:20``: what the rest of ``total`` takes, if as long per unit as what is done did."""
    rest = round(seconds / done * max(0, total - done))
    return f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}" if rest >= 3600 else f"{rest // 60}:{rest % 60:02}"


def _bar(state: Callable[[], tuple[float, str]]) -> Any:
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    began = time.monotonic()

    def drawn() -> Table:
        grid = Table.grid(padding=(0, 1))
        if time.monotonic() - began >= PATIENCE_S:
            share, line = state()
            grid.add_row(ProgressBar(1.0, share, width=30), Text(line, no_wrap=True, overflow="ellipsis"))
        return grid

    console = Console(stderr=True)
    return Live(get_renderable=drawn, console=console, transient=True, redirect_stdout=False)
