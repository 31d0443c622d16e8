"""What a person sees while prompts are continued: the answers on stdout, a line of progress on stderr."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from real.run.stream import Progress, Stream, Token

EVERY_S = 0.2
"""How often the line of progress is written anew."""


class Page:
    """Writes the answers one after the other, each under its heading where there are several, as their text comes.

    ``titles``: of the prompts, in the order in which they are served; ``places``: of each its place among those asked.
    Answers that come at the same time wait for their turn. Without ``out`` nothing is written.
    """

    def __init__(self, out: TextIO | None, titles: Sequence[str], places: Sequence[int]) -> None:
        self._out, self._titles = out, titles
        self._number = {place: number for number, place in enumerate(places)}
        self._waiting = [""] * len(titles)
        self._ended = [False] * len(titles)
        self._turn, self._begun = 0, False

    def add(self, token: Token) -> None:
        """BrokenPipeError where nobody reads any more."""
        number = self._number[token.request]
        self._waiting[number] += token.text
        self._ended[number] = token.end is not None
        self._write()

    def end(self, stream: Stream) -> None:
        """No token follows: what waits is written, of a run that was ended early as well."""
        for place, number in self._number.items():
            if not self._ended[number]:
                self._waiting[number] += stream.rest(place)
                self._ended[number] = self._begun or number > self._turn or bool(self._waiting[number])
        self._write()

    def _write(self) -> None:
        if self._out is None:
            return
        while self._turn < len(self._titles):
            text, self._waiting[self._turn] = self._waiting[self._turn], ""
            ended = self._ended[self._turn]
            if not (text or ended):
                break
            if not self._begun and len(self._titles) > 1:
                self._out.write(f"--- {self._titles[self._turn]}\n")
            self._begun = not ended
            self._out.write(text + ("\n\n" if ended else ""))
            if not ended:
                break
            self._turn += 1
        self._out.flush()


class Line:
    """The line of progress, where stderr is a terminal: written over itself, or, where the answers go to the same
    terminal, below each answer."""

    def __init__(self) -> None:
        self._shown, self._below = sys.stderr.isatty(), sys.stdout.isatty()
        self._last = 0.0

    def note(self, stream: Stream, token: Token) -> None:
        now = time.monotonic()
        if not self._shown or not (token.end if self._below else now - self._last >= EVERY_S):
            return
        self._last = now
        self._write(stream, "\n" if self._below else "")

    def end(self, stream: Stream) -> None:
        if self._shown and not self._below:
            self._write(stream, "\n")

    def _write(self, stream: Stream, after: str) -> None:
        before = "" if self._below else "\r\x1b[K"
        sys.stderr.write(f"{before}{worded(stream.progress())}{after}")
        sys.stderr.flush()


def worded(so_far: Progress) -> str:
    """``64 tokens, 31.2 tokens/s, hits 71 %, link busy 40 %``."""
    parts = [f"{so_far.tokens} tokens", f"{so_far.tokens_per_s:.1f} tokens/s"]
    if so_far.hit_rate is not None:
        parts.append(f"hits {100 * so_far.hit_rate:.0f} %")
    if so_far.link_share is not None:
        parts.append(f"link busy {100 * so_far.link_share:.0f} %")
    return ", ".join(parts)


class Stopped:
    """Whether a signal has ended the run; ``status``: 128 + the signal, 0 without one."""

    status = 0


@contextmanager
def stoppable(stream: Stream) -> Iterator[Stopped]:
    """Within this block Ctrl-C, or a batch system's SIGTERM, ends the run after the pass under way, and nothing that
    was made is lost; the same once more ends it by KeyboardInterrupt."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.status = 128 + number
        for one, handler in before.items():
            signal.signal(one, handler)
        stream.stop()
        os.write(2, b"\nending after the pass under way; once more: at once, and nothing is written\n")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
