"""Which requests run, in which order, and in which forward passes: a closed loop at batch B.

What a pass demands is the union of the experts that its tokens chose, in token order.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.prices.costs import attended_pairs
from sim.workload.step import Demand as Demand
from sim.workload.step import Pass as Pass
from sim.workload.step import Piece as Piece
from traces import DECODE, PREFILL, Trace
from traces.format.layout import Array
from traces.kit.errors import UserError

PrefillOrder = Literal["chunk_major", "layer_major"]
Chunk = tuple[int, int, int]
"""Of a prompt: (first row, rows, tokens in the KV cache before)."""

BLOCK = 1024  # rows that are turned into Python numbers at a time

VALIDATION_EVERY = 5
"""Of so many prompts of the train requests one is measured with ``measure=validation``."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The requests of a run, in order: ``warmup`` are replayed first and not measured.

    RuntimeError if a policy could learn from what is measured.
    """

    warmup: tuple[int, ...]
    measured: tuple[int, ...]
    train: tuple[int, ...]
    """What a policy may learn from."""
    left_out: int = 0
    """Requests that the limit left out: with 0 there might as well be none."""

    def __post_init__(self) -> None:
        if both := set(self.train) & set(self.measured):
            raise RuntimeError(f"requests {sorted(both)} are measured, and learned from before")


def select(
    trace: Trace, *, seed: int = 0, limit: int | None = None, warmup: int = 0, measure: str = "test"
) -> Selection:
    """Measure the test requests where the trace has a split, else all; ``limit``: the first so many as recorded.

    ``measure="validation"``: the train requests of every fifth prompt instead (of fewer than five, of the last); the
    others are left to learn from. A seed other than 0 permutes what is measured: every seed measures the same requests,
    whatever limit and warm-up. Warm-up requests are of those to learn from, or, with no split, from the front.
    UserError if none is left.
    """
    train = tuple(r.request for r in trace.requests if r.split == "train")
    pool = [r.request for r in trace.requests if r.split != "train"]
    if measure == "validation":
        pool, train = _validation(trace, train)
    before = list(train[:warmup]) if train else pool[:warmup]
    if not train:
        pool = pool[warmup:]
    if train and not pool:
        raise UserError("the trace has train requests only, and none to measure; import or collect it with split=0.7")
    if warmup > len(before) or not pool:
        have = len(train) if train else len(before) + len(pool)
        raise UserError(f"warmup={warmup}: the trace has {have} requests for it, and one must be left to measure")
    chosen = pool[:limit]
    left_out = len(pool) - len(chosen)
    if seed:
        chosen = [chosen[i] for i in np.random.default_rng(seed).permutation(len(chosen))]
    return Selection(tuple(before), tuple(chosen), train, left_out)


def _validation(trace: Trace, train: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """What is measured, and what is left to learn from. Several samples of one prompt stay together."""
    prompts = {request: _prompt(trace, request) for request in train}
    kinds = list(dict.fromkeys(prompts.values()))
    if len(kinds) < 2:
        raise UserError(
            f"measure=validation: measures the train requests of some prompts, of which the trace has {len(kinds)};"
            " allowed: test, or a trace with at least 2 (import or collect it with split=0.7)"
        )
    held = set(kinds[VALIDATION_EVERY - 1 :: VALIDATION_EVERY] or kinds[-1:])
    measured = [request for request in train if prompts[request] in held]
    return measured, tuple(request for request in train if prompts[request] not in held)


def _prompt(trace: Trace, request: int) -> bytes | int:
    """The token ids of a request's prompt; where they were not recorded the request, as one of a prompt of its own."""
    prefill = _steps(trace, request, PREFILL)
    if trace.token_ids is None or not len(prefill):
        return request
    spans = prefill[["first_row", "rows"]].tolist()
    return b"".join(trace.token_ids[first : first + rows].tobytes() for first, rows in spans)


class ClosedLoop:
    """``batch`` requests are active at any time. When one ends, the next is admitted, right after its last pass; the
    prefills of the admitted run one by one, before the others' next decode pass.

    ``prefill_chunk``: tokens of a prompt that are computed at a time (None: as recorded). ``prefill_order``: a chunk is
    a pass of its own (chunk_major), or all chunks of a prompt go through a layer before any goes through the next
    (layer_major): then a prompt is one pass, each layer of which copies its union once, and computes chunk by chunk.
    """

    def __init__(
        self,
        trace: Trace,
        batch: int = 1,
        *,
        prefill_chunk: int | None = None,
        prefill_order: PrefillOrder = "chunk_major",
    ) -> None:
        self.trace, self.batch = trace, batch
        self.chunk, self.layer_major = prefill_chunk, prefill_order == "layer_major"
        self.reader = DemandReader(trace)

    def passes(self, requests: Sequence[int]) -> Iterator[Pass]:
        """The forward passes that serve ``requests``, in order."""
        waiting, admitted = deque(requests), deque[int]()
        decoding: dict[int, Iterator[Pass]] = {}
        left: dict[int, int] = {}  # decode steps
        admits: tuple[int, ...] = ()
        while waiting or admitted or decoding:
            while waiting and len(admitted) + len(decoding) < self.batch:
                admitted.append(waiting.popleft())
                admits += (admitted[-1],)
            if admitted:
                request = admitted[0]
                for step in self._prefill(request):
                    step.admits, admits = admits, ()
                    yield step
                del admitted[0]
                if len(steps := _steps(self.trace, request, DECODE)):
                    left[request], decoding[request] = len(steps), self._decode(request, steps)
                continue
            parts = [next(steps) for steps in decoding.values()]
            step = parts[0] if len(parts) == 1 else self._join(parts)
            step.admits, admits = admits, ()
            yield step
            for request in step.requests:
                left[request] -= 1
                if not left[request]:
                    del decoding[request]

    def _prefill(self, request: int) -> Iterator[Pass]:
        chunks = self._chunks(request)
        if self.layer_major and len(chunks) > 1:
            yield self._layer_major(request, chunks)
            return
        for first, rows, context in chunks:
            parts = [(first, rows)]
            demand, tokens = self.reader.union(parts)
            pairs = attended_pairs(rows, context)
            yield Pass(True, (request,), parts, rows, context + rows, pairs, demand, tokens)

    def _chunks(self, request: int) -> list[Chunk]:
        """What is computed of a prompt at a time. A prompt's rows follow each other, however they were recorded."""
        steps: list[Chunk] = _steps(self.trace, request, PREFILL)[["first_row", "rows", "context"]].tolist()
        if self.chunk is None or not steps:
            return steps
        (first, _, context), total = steps[0], sum(rows for _, rows, _ in steps)
        starts = range(0, total, self.chunk)
        return [(first + i, min(self.chunk, total - i), context + i) for i in starts]

    def _layer_major(self, request: int, chunks: list[Chunk]) -> Pass:
        pieces = tuple(Piece(rows, context + rows, attended_pairs(rows, context)) for _, rows, context in chunks)
        first, rows = chunks[0][0], sum(piece.rows for piece in pieces)
        demand, tokens = self.reader.union([(first, rows)])
        counts = [dict[int, int]() for _ in chunks]
        for (start, n, _), count in zip(chunks, counts, strict=True):
            for layer in zip(*self.reader.union([(start, n)]), strict=True):
                count.update(zip(*layer, strict=True))
        by_piece = [[[count.get(x, 0) for count in counts] for x in layer] for layer in demand]
        kv_tokens, pairs = pieces[-1].kv_tokens, sum(piece.pairs for piece in pieces)
        step = Pass(True, (request,), [(first, rows)], rows, kv_tokens, pairs, demand, tokens)
        step.pieces, step.piece_tokens = pieces, by_piece
        return step

    def _decode(self, request: int, steps: Array) -> Iterator[Pass]:
        row, context = int(steps["first_row"][0]), int(steps["context"][0])
        for i, demand in enumerate(self.reader.rows(row, len(steps))):
            seen = context + i + 1
            ones = [[1] * len(experts) for experts in demand]
            yield Pass(False, (request,), [(row + i, 1)], 1, seen, seen, demand, ones)

    @staticmethod
    def _join(parts: list[Pass]) -> Pass:
        merged = [merge(list(rows)) for rows in zip(*(p.demand for p in parts), strict=True)]
        return Pass(
            False,
            tuple(p.requests[0] for p in parts),
            [p.parts[0] for p in parts],
            len(parts),
            sum(p.kv_tokens for p in parts),
            sum(p.pairs for p in parts),
            [d for d, _ in merged],
            [t for _, t in merged],
        )


def _steps(trace: Trace, request: int, phase: int) -> Array:
    """The recorded steps of a request in one phase."""
    steps = trace.steps[trace.steps_of(request)]
    of_phase: Array = steps[steps["phase"] == phase]
    return of_phase


class DemandReader:
    """Reads demand sets from a memory-mapped trace, a block at a time: memory does not grow with the trace."""

    def __init__(self, trace: Trace) -> None:
        self._ids = trace.expert_ids
        self._absent = trace.absent
        self._first = np.arange(trace.L, dtype=np.int32)[:, None] * trace.E  # expert number of a layer's expert 0
        self._slots = trace.L * trace.E

    def rows(self, first: int, count: int) -> Iterator[Demand]:
        """Demand of each single row of ``first .. first + count``: a decode step of one request."""
        for start in range(first, first + count, BLOCK):
            ids = self._ids[start : min(start + BLOCK, first + count)]
            flat = (ids + self._first).tolist()
            if (ids == self._absent).any():
                absent = (ids == self._absent).tolist()
                flat = [
                    [[x for x, gone in zip(*pair, strict=True) if not gone] for pair in zip(*row, strict=True)]
                    for row in zip(flat, absent, strict=True)
                ]
            yield from flat

    def union(self, parts: list[tuple[int, int]]) -> tuple[Demand, Demand]:
        """Demand and tokens per expert of one step over the rows of ``parts`` [(first row, rows)]."""
        numbers = self.numbers(parts)
        pairs = [ordered_union(numbers[:, layer], self._slots) for layer in range(numbers.shape[1])]
        return [demand for demand, _ in pairs], [tokens for _, tokens in pairs]

    def numbers(self, parts: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
        """Expert numbers that the rows of ``parts`` chose, int32 [rows, L, K]; L * E: none."""
        ids = np.concatenate([self._ids[first : first + rows] for first, rows in parts])
        flat: NDArray[np.int32] = ids + self._first
        flat[ids == self._absent] = self._slots
        return flat


def ordered_union(flat: NDArray[Any], slots: int) -> tuple[list[int], list[int]]:
    """Union of one layer's demand over rows of expert numbers [n, K] (``slots`` and more: none); tokens per expert."""
    if len(flat) == 1 and int(flat.max()) < slots:  # a token chooses no expert twice
        return flat[0].tolist(), [1] * flat.shape[1]
    # An expert's place in the order is that of its last use: unique() of the reversed sequence finds it first.
    experts, last, counts = np.unique(flat[::-1, ::-1], return_index=True, return_counts=True)
    order = np.argsort(-last)
    order = order[experts[order] < slots]
    return experts[order].tolist(), counts[order].tolist()


def merge(rows: list[list[int]]) -> tuple[list[int], list[int]]:
    """Union of one layer's demand over single rows, in order of last use, with tokens per expert."""
    counts: dict[int, int] = {}
    for row in rows:
        for x in row:
            counts[x] = counts.pop(x, 0) + 1
    return list(counts), list(counts.values())
