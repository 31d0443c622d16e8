"""The passes that a scheduler's batches are: which rows of the trace they compute, and what these demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.prices.costs import attended_pairs
from sim.workload.online.by_layer import places, tokens_by_piece
from sim.workload.online.schedule import Arrival, Batch, Share
from sim.workload.step import Demand, Pass, Piece
from traces import PREFILL, Trace

Numbers = NDArray[np.int32]
"""Expert numbers that rows chose, [rows, L, K]; L * E: none."""


class Rows:
    """Makes passes of batches. A demand set is the union over all rows of a pass, in the order of shares and rows.

    The requests of a pass are instances, its rows those of the requests that they replay. O(rows L K + L E log E).
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._ids: NDArray[np.integer[Any]] = np.asarray(trace.expert_ids)  # a memory map takes microseconds to slice
        self._first = np.arange(trace.L, dtype=np.int32)[:, None] * trace.E
        self._spans: dict[int, tuple[int, int]] = {}

    def step(self, batch: Batch, arrivals: Mapping[int, Arrival] | Sequence[Arrival]) -> Pass:
        """The pass that computes a batch; ``arrivals``: of its instances, by id."""
        requests, parts, prompts = list[int](), list[tuple[int, int]](), list[int]()
        kv_tokens = pairs = 0
        for share in batch.shares:
            left = share.prompt_tokens
            for part in self._parts(arrivals[share.id], share):
                requests.append(share.id)
                parts.append(part)
                prompts.append(min(left, part[1]))
                left -= prompts[-1]
            kv_tokens += share.start + share.tokens
            pairs += attended_pairs(share.tokens, share.start)
        numbers = self.numbers(parts)
        rows, of_prompts = len(numbers), sum(prompts)
        demand, tokens = unions(numbers, self.trace.E)
        step = Pass(of_prompts > 0, tuple(requests), parts, rows, kv_tokens, pairs, demand, tokens)
        if 0 < of_prompts < rows:
            theirs = np.concatenate([np.arange(n) < prompt for (_, n), prompt in zip(parts, prompts, strict=True)])
            counts = np.bincount(numbers[theirs].ravel(), minlength=self.trace.L * self.trace.E + 1)
            step.prompt_rows = tuple(prompts)
            step.prompt_tokens = [counts[experts].tolist() for experts in demand]
        if batch.pieces:
            step.pieces = tuple(self._piece(piece, arrivals) for piece in batch.pieces)
            at = places(batch.shares, batch.pieces)
            step.piece_tokens = tokens_by_piece(numbers, at, demand, self.trace.L * self.trace.E)
        return step

    def _piece(self, piece: Sequence[Share], arrivals: Mapping[int, Arrival] | Sequence[Arrival]) -> Piece:
        return Piece(
            sum([share.tokens for share in piece]),
            sum([share.start + share.tokens for share in piece]),
            sum([attended_pairs(share.tokens, share.start) for share in piece]),
            sum([len(self._parts(arrivals[share.id], share)) for share in piece]),
        )

    def numbers(self, parts: Sequence[tuple[int, int]]) -> Numbers:
        """What the rows of ``parts`` [(first row, rows)] chose."""
        if len(parts) == 1:
            first, rows = parts[0]
            ids = self._ids[first : first + rows]
        elif all(rows == 1 for _, rows in parts):
            ids = self._ids[[first for first, _ in parts]]
        else:
            ids = self._ids[np.concatenate([np.arange(first, first + rows) for first, rows in parts])]
        numbers: Numbers = ids + self._first
        numbers[ids == self.trace.absent] = self.trace.L * self.trace.E
        return numbers

    def _parts(self, arrival: Arrival, share: Share) -> list[tuple[int, int]]:
        """A share's rows: one run of them, but for one that crosses from a prompt that was cut to its output."""
        if arrival.request not in self._spans:
            steps = self.trace.steps[self.trace.steps_of(arrival.request)]
            first = int(steps["first_row"][0])
            self._spans[arrival.request] = first, first + int(steps["rows"][steps["phase"] == PREFILL].sum())
        first, decode = self._spans[arrival.request]
        start, end, prompt = share.start, share.start + share.tokens, arrival.prompt_tokens
        if first + prompt == decode or end <= prompt:
            return [(first + start, share.tokens)]
        if start >= prompt:
            return [(decode + start - prompt, share.tokens)]
        return [(first + start, prompt - start), (decode, end - prompt)]


def unions(numbers: Numbers, n_experts: int) -> tuple[Demand, Demand]:
    """Demand sets of all layers, the expert that was used last being the last, and the tokens of each expert."""
    rows, n_layers, top_k = numbers.shape
    n_all = n_layers * n_experts
    if rows == 1 and int(numbers.max()) < n_all:
        demand: Demand = numbers[0].tolist()
        return demand, [[1] * top_k for _ in demand]
    flat = numbers.ravel()
    counts = np.bincount(flat, minlength=n_all + 1)
    uses = np.arange(rows)[:, None, None] * top_k + np.arange(top_k)
    last = np.empty(n_all + 1, np.int64)
    last[flat] = np.broadcast_to(uses, numbers.shape).ravel()  # of several, the last written stays
    experts = np.flatnonzero(counts[:n_all])
    layers = experts // n_experts
    order = np.argsort(layers * (rows * top_k) + last[experts])
    ends = np.cumsum(np.bincount(layers, minlength=n_layers)).tolist()
    experts, tokens = experts[order].tolist(), counts[experts[order]].tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    return [experts[a:b] for a, b in spans], [tokens[a:b] for a, b in spans]
