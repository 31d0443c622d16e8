"""What each of several GPUs did when: a timeline for each, in one Chrome trace."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from policies.api import Setup
from sim.results.timeline import (
    CPU,
    PREDICTOR,
    THREADS,
    Event,
    Timeline,
    in_lanes,
    metadata,
    of_copies,
    of_predictions,
    on_the_cpu,
    width,
)

STREAM, LINKS = "GPU {}, stream", "GPU {}, link, host to device"
_OF_A_GPU = 1000
"""Numbers of threads that are of one GPU; its stream has the first, the lanes of its link those behind."""


class OfGpu(Timeline):
    """Of one of several. What is told in pieces, as something ended elsewhere, is one slice."""

    def stall(self, begin: int, end: int, cause: int) -> None:
        if self.stalls and self.stalls[-2:].tolist() == [begin, cause]:
            begin = self._reopen(self.stalls, 3)
        super().stall(begin, end, cause)

    def idle(self, begin: int, end: int) -> None:
        if self.idles and self.idles[-1] == begin:
            begin = self._reopen(self.idles, 2)
        super().idle(begin, end)

    def _reopen(self, spans: array[int], width: int) -> int:
        """Take back the last span, which goes on. Returns when it began."""
        begin = spans[-width]
        del spans[-width:]
        self.free = begin
        return begin


class Timelines(Timeline):
    """Of each GPU its stream, its link and its bytes; predictions and software are of all, or of the first."""

    def __init__(self, gpus: int) -> None:
        super().__init__()
        self.each = [OfGpu() for _ in range(gpus)]

    def of(self, gpu: int) -> Timeline:
        return self.each[gpu]

    def start(self, now: int) -> None:
        super().start(now)
        for its in self.each:
            its.start(now)

    def events(self, title: str, setup: Setup) -> Iterator[Event]:
        yield metadata("process_name", 0, name=title)
        copies = [in_lanes(its.copies, 4) for its in self.each]
        predictions = in_lanes(self.predictions, 3)
        yield from _threads([width(own) or 1 for own in copies], width(predictions) or 1)
        yield from on_the_cpu(self.each[0])
        yield from of_predictions(predictions)
        for gpu, (its, own) in enumerate(zip(self.each, copies, strict=True)):
            yield from its.on_the_stream(setup, _stream(gpu))
            yield from of_copies(own, setup, [_link(gpu, lane) for lane in range(width(own))])
            yield from its.held(f"experts on GPU {gpu}")


def timeline_of(gpus: int) -> Timeline:
    """An empty one for a machine with so many GPUs that hold experts of their own."""
    return Timelines(gpus) if gpus > 1 else Timeline()


def _stream(gpu: int) -> int:
    return _OF_A_GPU * (gpu + 1)


def _link(gpu: int, lane: int) -> int:
    return _stream(gpu) + 1 + lane


def _threads(links: list[int], predictors: int) -> Iterator[Event]:
    """Names of the threads, in the order in which they are shown."""
    shown = [(CPU, THREADS[CPU], 0)]
    shown += [(PREDICTOR + lane, THREADS[PREDICTOR], lane) for lane in range(predictors)]
    for gpu, lanes in enumerate(links):
        shown.append((_stream(gpu), STREAM.format(gpu), 0))
        shown += [(_link(gpu, lane), LINKS.format(gpu), lane) for lane in range(lanes)]
    for place, (thread, name, lane) in enumerate(shown, 1):
        yield metadata("thread_name", thread, name=f"{name} {lane + 1}" if lane else name)
        yield metadata("thread_sort_index", thread, sort_index=place)
