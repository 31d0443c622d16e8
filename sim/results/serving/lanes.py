"""Requests that arrive as lanes of a timeline: who waits, whose prompt is computed, who decodes, who lost its place."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator

from sim.results.timeline import Event, Timeline, in_lanes, metadata, rows_of, slice_, width
from sim.workload.online.feed import Serving
from sim.workload.online.schedule import Batch

FIRST = 1_000_000
"""Number of the first lane's thread: no GPU, link or predictor has one as large."""
Span = tuple[str, int, int, int]
"""What, from, until (ns), tokens."""


def requests_as_lanes(serving: Serving, timeline: Timeline) -> Iterator[Event]:
    """A slice per request from arrival to last token, in the first lane that is free, and within it what happened.

    ``wait`` until its first pass, ``preempted`` until it is admitted again, ``prompt`` for each pass that computes rows
    of its prompt (or rows again), ``decode`` for runs of passes that compute its output: with a pass in between that
    leaves it out, another slice begins.
    """
    start = serving.start or 0
    every = array("q")
    for number, one in serving.ledger.served.items():
        if one.ended:
            every.extend((start + one.arrival.time_ns, start + one.end_ns, number))
    placed, inside = in_lanes(every, 3), _inside(serving, timeline)
    for lane in range(width(placed)):
        yield metadata("thread_name", FIRST + lane, name=f"requests {lane + 1}" if lane else "requests")
        yield metadata("thread_sort_index", FIRST + lane, sort_index=FIRST + lane)
    for begin, end, number, lane in placed:
        one = serving.ledger.served[number]
        its = one.arrival
        about = {"replays": its.request, "prompt": its.prompt_tokens, "output": its.output_tokens}
        yield slice_(f"request {number}", "request", FIRST + lane, begin, end, about | {"preemptions": one.preemptions})
        for what, since, until, tokens in [("wait", begin, start + one.first_ns, 0), *inside[number]]:
            if until > since:
                yield slice_(what, f"request {what}", FIRST + lane, since, until, {"tokens": tokens} if tokens else {})


def _inside(serving: Serving, timeline: Timeline) -> defaultdict[int, list[Span]]:
    """By instance what happened since its first pass, in order."""
    found: defaultdict[int, list[Span]] = defaultdict(list)
    lost = dict[int, int]()
    for batch, (begin, end, *_) in zip(serving.batches(), rows_of(_passes(timeline), 4), strict=True):
        for number in batch.preempted:
            lost[number] = begin
        _pass(found, lost, batch, begin, end)
    return found


def _pass(found: defaultdict[int, list[Span]], lost: dict[int, int], batch: Batch, begin: int, end: int) -> None:
    for share in batch.shares:
        own = found[share.id]
        if (since := lost.pop(share.id, None)) is not None:
            own.append(("preempted", since, begin, 0))
        what = "prompt" if share.prompt_tokens else "decode"
        last = own[-1] if own else None
        if what == "decode" and last is not None and last[0] == what and last[2] == begin:
            own[-1] = (what, last[1], end, last[3] + share.tokens)
        else:
            own.append((what, begin, end, share.tokens))


def _passes(timeline: Timeline) -> array[int]:
    """The passes, which all GPUs make together."""
    each = getattr(timeline, "each", None)
    return timeline.steps if each is None else each[0].steps
