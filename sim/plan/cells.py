"""The runs behind a plan: the same cells as those of ``python -m sim run``, kept in the same store, on all cores."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from sim.experiment.cell import Inputs
from sim.experiment.config import RunConfig
from sim.experiment.run import run_config
from traces.kit.errors import UserError
from traces.kit.threads import one_thread_each

WORKERS = 8
"""At most: a plan has not more to do at once."""
WORTH = 8
"""Cells for which other processes are begun; each takes a second to begin."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a plan says of a cell: the figures of its ``result.json``."""

    budget_bytes: int
    latency_ms: dict[str, dict[str, float] | None]
    tokens_per_s: float | None
    hits: float | None
    on_host: bool
    damage: dict[str, float] | None
    """Of a lossy policy, the shares that a replay can know."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Figures":
        """Those of a result."""
        quality = document["quality"]
        return cls(
            document["memory"]["budget_bytes"],
            document["latency_ms"],
            document["throughput_tokens_per_s"],
            document["hit_rate"]["complete"],
            bool(document["totals"].get("host_lookups")),
            quality and {key: share for key, share in quality.items() if isinstance(share, float)},
        )


Found = Figures | str
"""Of a cell that cannot be (a budget below what its policy needs, say): why not."""
_inputs = Inputs(keep=True)


def find(config: RunConfig, out: Path, inputs: Inputs | None = None) -> Found:
    """One cell: its figures, or why it cannot be."""
    try:
        return Figures.of(dict(run_config(config, out, inputs=inputs or _inputs).document))
    except UserError as error:
        return str(error)


Note = Callable[[int, int], None]
"""``note(cells done, cells asked for)``"""


class Runner(AbstractContextManager["Runner"]):
    """Runs cells, or reads those that are there; every one once."""

    def __init__(
        self, out: Path, workers: int = 0, note: Note | None = None, find: Callable[..., Found] = find
    ) -> None:
        self.out, self.note, self._find = out, note, find
        self.workers = workers or min(WORKERS, len(os.sched_getaffinity(0)))
        self._known: dict[str, Found] = {}
        self._inputs = Inputs(keep=True)
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for what is under way
            for process in active_children():
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, configs: Sequence[RunConfig]) -> list[Found]:
        """The figures of each, in their order."""
        keys = [json.dumps(asdict(config), sort_keys=True, default=str) for config in configs]
        new = {key: config for key, config in zip(keys, configs, strict=True) if key not in self._known}
        for done, (key, found) in enumerate(zip(new, self._found(list(new.values())), strict=True), 1):
            self._known[key] = found
            if self.note is not None:
                self.note(done, len(new))
        return [self._known[key] for key in keys]

    def each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a function of a module gives for each, in other processes where there are several."""
        if self.workers == 1 or len(arguments) == 1:
            return [function(*given) for given in arguments]
        return list(self._map(function, *zip(*arguments, strict=True)))

    def _found(self, configs: list[RunConfig]) -> Iterable[Found]:
        if self.workers == 1 or (self._pool is None and len(configs) < WORTH):
            return (self._find(config, self.out, self._inputs) for config in configs)
        return self._map(self._find, configs, [self.out] * len(configs))

    def _map(self, function: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        """In other processes. UserError where one of them is ended from outside."""
        if self._pool is None:
            # Not forked: a thread of the progress bar may hold a lock just then.
            self._pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        with _uninterrupted(), one_thread_each():  # this begins them
            found = self._pool.map(function, *arguments)
        try:
            yield from found
        except BrokenProcessPool:
            raise UserError("a process of the plan was ended from outside, as where memory is short") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that begin here are deaf to Ctrl-C, which a terminal sends to all: this one hears it, and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
