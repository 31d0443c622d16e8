"""What is told while something runs: lines and progress on stderr, tables on stdout, and what others' errors say.

Rich is imported when something of its is shown: a server may lack it.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_S = 1.0
"""What ends sooner shows no bar."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_short(error: BaseException, *, kind: bool = False) -> str:
    """What an error says, in one line of 300 characters at most; ``kind``: and its type."""
    return " ".join((f"{type(error).__name__}: {error}" if kind else str(error)).split())[:300]


def in_one_line(error: BaseException) -> str:
    """``KeyError: 5 (my_policy.py, line 41)``: what, and the place that raised it, from below SimPy's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text


def stdout_console(width: int | None = 120) -> "Console":
    """As wide as the terminal, or as COLUMNS says, else ``width`` (None: as Rich finds). Brackets are no markup."""
    from rich.console import Console

    own = sys.stdout.isatty() or os.environ.get("COLUMNS", "").lstrip("0").isdecimal()  # Rich reads both
    return Console(width=None if own else width, highlight=False, markup=False, emoji=False)


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
