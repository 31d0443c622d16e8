"""Tokens as they come: one thread runs the model, and whoever reads takes them when it likes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from real.run.answer import Answer
from real.runtime.generate import End, Served
from sim.core.accounts import COMPLETE, LOOKUPS
from traces.kit.errors import UserError

if TYPE_CHECKING:
    from real.run.folder import Session
    from real.run.serving import Serving


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer, in the order in which they were made."""

    request: int
    """Whose: the place of its prompt among those that were given, from 0."""
    index: int
    """Its place in the answer, from 0."""
    id: int
    """As the tokenizer numbers it."""
    text: str
    """What has become certain of the answer's text by it, often nothing: half a character waits for its other half, and
    what may begin a stop string for what follows. The texts of a request, joined, are its answer."""
    end: End | None
    """Of an answer's last token: length (as many as were asked for), token (it ends a text), stop (a stop string is
    complete). None: it goes on."""
    seconds: float
    """When it was chosen, since the stream began."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stream has done so far. ``seconds``: from its beginning to the last token; ``hit_rate``: experts that were
    complete when their gate had run, over those that were wanted; ``link_share``: of the time, how much the link
    copied. Both are None before the first pass."""

    tokens: int
    seconds: float
    hit_rate: float | None
    link_share: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class _Engine:
    """The thread that runs the model. It knows nothing of who reads, so that a stream that is forgotten ends it."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.told: SimpleQueue[tuple[int, int, int, End | None, int] | None] = SimpleQueue()
        self.over = threading.Event()
        self.failure: BaseException | None = None
        self.began = 0
        self._threads = torch.get_num_threads()  # a new thread has torch's own choice
        self.thread = threading.Thread(target=self._run, name="real.generate", daemon=True)

    def start(self) -> None:
        if not self.serving.model.busy.acquire(blocking=False):
            raise UserError("the model generates already; allowed: one stream at a time, to its end or its close()")
        self.began = self.serving.now()
        self.thread.start()

    def stop(self) -> None:
        """No further pass begins; returns when the thread has ended."""
        self.over.set()
        if self.thread.ident is not None and self.thread is not threading.current_thread():  # as garbage of its own
            self.thread.join()

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            self.serving.run(self._tell, self.over.is_set)
        except BaseException as error:  # raised to the one who reads
            self.failure = error
        finally:
            self.serving.model.busy.release()
            self.told.put(None)

    def _tell(self, request: Served) -> None:
        made = len(request.made)
        self.told.put((request.number, made - 1, request.made[-1], request.end, self.serving.now()))


class Stream(Iterator[Token]):
    """An iterator of :class:`Token`; the model runs behind it from the first one on, and does not wait for the reader.

    A reader that is slow loses nothing; memory grows with the tokens that it has not taken. Leaving it (``with``,
    :meth:`close`, or no reference to it any more) ends the run after the pass under way, and joins its threads.
    Iterating raises UserError for what is wrong with what was asked, DeviceError where the device fails.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving, self._engine = serving, _Engine(serving)
        stops, tokenizer = serving.how.stop, serving.model.tokenizer
        self._answers = [Answer(tokenizer, stops) for _ in serving.requests]
        self._tokens, self._seconds, self._ended = 0, 0.0, False
        self._session: Session | None = None
        self._end = weakref.finalize(self, self._engine.stop)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Token:
        if self._ended:
            raise StopIteration
        if not self._engine.began:
            self._engine.start()
        told = self._engine.told.get()
        if told is None:
            self._ended = True
            self._engine.thread.join()
            if self._engine.failure is not None:
                raise self._engine.failure
            raise StopIteration
        number, index, token, end, when = told
        self._tokens += 1
        text = self._answers[number].add(token, end)
        self._seconds = (when - self._engine.began) / 1e9
        return Token(self._serving.places[number], index, token, text, end, self._seconds)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the run after the pass under way. What was made until then can still be read, and told of."""
        self._engine.stop()
        self._end.detach()
        if not self._engine.began:
            self._ended = True

    def stop(self) -> None:
        """Have it end after the pass under way, without a wait: what was made until then can still be read."""
        self._engine.over.set()

    def rest(self, request: int) -> str:
        """What is certain of a request's text only since no token follows: of a run that was ended early."""
        return self._answers[self._serving.places.index(request)].rest()

    def progress(self) -> Progress:
        """What has been done so far: tokens that were read, and hits and link of the passes that have run."""
        machine = self._serving.machine
        if machine is None:
            return Progress(self._tokens, self._seconds, None, None)
        accounts = machine.core.accounts
        row, window = accounts.hit_row(), (accounts.end_ns or machine.now()) - accounts.start_ns
        hits = row[COMPLETE] / row[LOOKUPS] if row[LOOKUPS] else None
        return Progress(self._tokens, self._seconds, hits, accounts.link_busy_ns / window if window > 0 else None)

    def session(self) -> Session:
        """What the run has left, of one that was read to its end or closed: its accounts, its log, the trace of what
        was made. UserError while it goes on, and where no pass has ended."""
        if self._engine.thread.is_alive() or not self._engine.began:
            raise UserError("the stream has not ended; allowed: to read it to its end, or close() first")
        if self._engine.failure is not None:
            raise self._engine.failure
        if self._session is None:
            self._session = self._serving.session()
        return self._session

    def result(self) -> dict[str, Any]:
        """The document that ``python -m real run`` writes as result.json. UserError as :meth:`session`."""
        return self.session().document()
