"""What a machine did when, as a Chrome trace: opens in Perfetto. The same for the simulator and for a device.

Its lanes, and how the slices of a run add up to its accounts: ``docs/results.md``.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from policies.api import Setup
from sim.core.accounts import STALLS
from sim.machine.listener import LEAD, PASS, SpanListener
from traces.kit.units import format_bytes

KINDS = ("demand", "late prefetch", "speculative")
GPU, CPU, LINK, PREDICTOR = 11, 12, 13, 14  # no process has such a number: Perfetto would take it for its main thread
THREADS = {GPU: "GPU stream", CPU: "CPU, software", LINK: "link, host to device", PREDICTOR: "predictor"}
HOST = "experts on the host"
Event = dict[str, Any]


class Timeline(SpanListener):
    """Collects spans in nanoseconds, flat: memory grows with what happens, 24 to 32 bytes a span.

    What the GPU does is told in the order of time and does not overlap; a span that begins before the last one ended
    (launched early, on a device) is shown from there.
    """

    def __init__(self) -> None:
        self._all = [array("q") for _ in range(12)]
        self.copies, self.computes, self.stalls, self.dense = self._all[:4]
        self.steps, self.used, self.software, self.predictions, self.decisions, self.hosts = self._all[4:10]
        self.peers, self.idles = self._all[10:]
        self.free = 0
        """Up to here the GPU's time is shown."""

    def start(self, now: int) -> None:
        for spans in self._all:
            del spans[:]
        self.free = now

    def copy(self, begin: int, end: int, chunk: int, kind: int) -> None:
        self.copies.extend((begin, end, chunk, kind))

    def layer(self, begin: int, end: int, layer: int) -> None:
        if end > begin:
            self.dense.extend((self._until(begin), end, layer))
            self.free = end

    def compute(self, begin: int, end: int, experts: Sequence[int]) -> None:
        begin = self._until(begin)
        cuts = [begin + (end - begin) * i // len(experts) for i in range(len(experts) + 1)]
        for x, span in zip(experts, pairwise(cuts), strict=True):
            self.computes.extend((*span, x))
        self.free = end

    def host(self, begin: int, end: int, expert: int) -> None:
        self.hosts.extend((begin, end, expert))

    def decide(self, begin: int, end: int) -> None:
        self.decisions.extend((self._until(begin), end))
        self.free = end

    def stall(self, begin: int, end: int, cause: int) -> None:
        if end > begin:
            self.stalls.extend((self._until(begin), end, cause))
            self.free = end

    def peer(self, begin: int, end: int) -> None:
        if end > begin:
            self.peers.extend((self._until(begin), end))
            self.free = end

    def idle(self, begin: int, end: int) -> None:
        if end > begin:
            self.idles.extend((self._until(begin), end))
            self.free = end

    def step(self, begin: int, end: int, number: int, prefill: bool) -> None:
        self._until(end)
        self.free = end
        self.steps.extend((begin, end, number, prefill))

    def predict(self, begin: int, end: int, blocking: bool) -> None:
        self.predictions.extend((begin, end, blocking))

    def occupancy(self, now: int, nbytes: int) -> None:
        self.used.extend((now, nbytes))

    def save(self, path: Path, what: str, policy: str, setup: Setup, more: Iterable[Event] = ()) -> None:
        """Write it, as a process named after ``what`` was done, the policy and its budget; ``more``: events beside."""
        write(path, chain(self.events(f"{what}: {policy}, {format_bytes(setup.budget)}", setup), more))

    def events(self, title: str, setup: Setup) -> Iterator[Event]:
        """The events of a Chrome trace, in microseconds; ``title`` names the process."""
        yield metadata("process_name", 0, name=title)
        copies, predictions, hosts = in_lanes(self.copies, 4), in_lanes(self.predictions, 3), in_lanes(self.hosts, 3)
        links, predictors = width(copies) or 1, width(predictions) or 1
        host = _of_link(links, predictors)
        yield from _threads(links, predictors, width(hosts))
        yield from self.on_the_stream(setup, GPU)
        yield from on_the_cpu(self)
        yield from of_copies(copies, setup, [_of_link(lane, predictors) for lane in range(links)])
        yield from of_predictions(predictions)
        for begin, end, expert, lane in hosts:
            layer, index = divmod(expert, setup.n_experts)
            about = {"layer": layer, "expert": index}
            yield slice_(f"L{layer} E{index}", "host expert", host + lane, begin, end, about)
        yield from self.held("experts on the GPU")

    def on_the_stream(self, setup: Setup, thread: int) -> Iterator[Event]:
        """What a GPU did, in passes."""
        parts = {LEAD: "leading layers", PASS: "all layers", setup.n_layers: "head"}
        for begin, end, number, prefill in rows_of(self.steps, 4):
            yield slice_("prefill" if prefill else "decode", "step", thread, begin, end, {"step": number})
        for begin, end, layer in rows_of(self.dense, 3):
            name = parts.get(layer) or f"L{layer} dense"
            yield slice_(name, "dense", thread, begin, end, {} if layer in parts else {"layer": layer})
        for begin, end, expert in rows_of(self.computes, 3):
            layer, index, dtype = _of_item(expert, setup)
            about = {"layer": layer, "expert": index, **({"dtype": dtype} if dtype else {})}
            yield slice_(_called(layer, index, dtype), "expert", thread, begin, end, about)
        for begin, end, cause in rows_of(self.stalls, 3):
            yield slice_(f"stall: {STALLS[cause]}", "stall", thread, begin, end, {"cause": STALLS[cause]})
        for begin, end in rows_of(self.peers, 2):
            yield slice_("activations", "peer", thread, begin, end, {})
        for begin, end in rows_of(self.idles, 2):
            yield slice_("idle", "idle", thread, begin, end, {})

    def held(self, name: str) -> Iterator[Event]:
        """Bytes of the budget that have an owner, as a counter."""
        for now, nbytes in rows_of(self.used, 2):
            yield {"ph": "C", "name": name, "pid": 1, "ts": now / 1000, "args": {"bytes": nbytes}}

    def _until(self, begin: int) -> int:
        """Up to ``begin`` the GPU did nothing that was told: that is software. Returns when the next span begins."""
        if begin > self.free:
            self.software.extend((self.free, begin))
        return max(begin, self.free)


def on_the_cpu(it: Timeline) -> Iterator[Event]:
    """What the GPU waited for beside its experts: software, and the policy's own decisions."""
    for name, spans in (("software", it.software), ("policy", it.decisions)):
        for begin, end in rows_of(spans, 2):
            yield slice_(name, name, CPU, begin, end, {})


def of_copies(copies: Sequence[tuple[int, ...]], setup: Setup, threads: Sequence[int]) -> Iterator[Event]:
    """Copies (begin, end, chunk, kind, lane), on the thread of their lane."""
    for begin, end, chunk, kind, lane in copies:
        layer, index, dtype = _of_item(chunk // setup.chunks, setup)
        about = {"layer": layer, "expert": index, "chunk": chunk % setup.chunks, "kind": KINDS[kind]}
        about |= {"dtype": dtype} if dtype else {}
        yield slice_(_called(layer, index, dtype), f"copy {KINDS[kind]}", threads[lane], begin, end, about)


def of_predictions(predictions: Sequence[tuple[int, ...]]) -> Iterator[Event]:
    """Predictions (begin, end, whether compute waits, lane)."""
    for begin, end, blocking, lane in predictions:
        yield slice_("prediction", "prediction", PREDICTOR + lane, begin, end, {"blocking": bool(blocking)})


def write(path: Path, events: Iterable[Event]) -> None:
    """Write a Chrome trace."""
    document = {"displayTimeUnit": "ns", "traceEvents": list(events)}
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def metadata(what: str, thread: int, **args: object) -> Event:
    return {"ph": "M", "name": what, "pid": 1, "tid": thread, "args": args}


def slice_(name: str, category: str, thread: int, begin: int, end: int, about: dict[str, Any]) -> Event:
    times = {"ts": begin / 1000, "dur": (end - begin) / 1000}
    return {"ph": "X", "name": name, "cat": category, "pid": 1, "tid": thread, **times, "args": about}


def rows_of(flat: array[int], width: int) -> Iterator[tuple[int, ...]]:
    return zip(*(flat[i::width] for i in range(width)), strict=True)


def in_lanes(spans: array[int], width: int) -> list[tuple[int, ...]]:
    """Spans (begin, end, more), each with the first lane that is free: several may be at a time."""
    free: list[int] = []
    placed = []
    for begin, end, *more in sorted(rows_of(spans, width)):
        lane = next((i for i, until in enumerate(free) if until <= begin), len(free))
        free[lane : lane + 1] = [end]
        placed.append((begin, end, *more, lane))
    return placed


def width(placed: list[tuple[int, ...]]) -> int:
    return max((lane + 1 for *_, lane in placed), default=0)


def _of_link(lane: int, predictors: int) -> int:
    """The thread of a lane of the link: further ones have the numbers after the predictors, and are shown before.

    Those of the host come after them.
    """
    return PREDICTOR + predictors + lane - 1 if lane else LINK


def _threads(links: int, predictors: int, hosts: int) -> Iterator[Event]:
    """Names of the threads, in the order in which they are shown."""
    shown = [(GPU, THREADS[GPU], 0), (CPU, THREADS[CPU], 0)]
    shown += [(_of_link(lane, predictors), THREADS[LINK], lane) for lane in range(links)]
    shown += [(PREDICTOR + lane, THREADS[PREDICTOR], lane) for lane in range(predictors)]
    shown += [(_of_link(links, predictors) + lane, HOST, lane) for lane in range(hosts)]
    for place, (thread, name, lane) in enumerate(shown, GPU):
        yield metadata("thread_name", thread, name=f"{name} {lane + 1}" if lane else name)
        yield metadata("thread_sort_index", thread, sort_index=place)


def _of_item(item: int, setup: Setup) -> tuple[int, int, str]:
    """Layer and index of an expert, and its dtype where it is not the model's own."""
    version = setup.version_of(item)
    return setup.layer_of(item), item % setup.n_experts, setup.versions[version] if version else ""


def _called(layer: int, index: int, dtype: str) -> str:
    return f"L{layer} E{index} {dtype}".rstrip()
