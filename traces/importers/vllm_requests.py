"""From the lines of a routing logger in vLLM to requests: by the request that a line names, or by forward pass."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from traces.format.layout import Array
from traces.importers.build import Found
from traces.importers.files import MAX_REQUEST_IDS, Line, check_request_size
from traces.importers.passes import Pass

_CUT = "of a file that was cut off, leave its last lines out, or take the requests before them with limit=N"


class Route(NamedTuple):
    """One line, the ``number``-th: the experts of one token in one layer. ``run``: the lines of type meta before it."""

    line: Line
    number: int
    run: int
    request: str
    token: int
    layer: int
    ids: list[int]
    weights: list[float] | None


@dataclass(eq=False)
class _Request:
    """The lines of one request, in their order: numbers of lines, layers, tokens, and the ids, flat."""

    first: Line
    name: str
    start: int
    lines: array[int] = field(default_factory=lambda: array("q"))
    layers: array[int] = field(default_factory=lambda: array("i"))
    tokens: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("i"))
    ids: array[int] = field(default_factory=lambda: array("i"))
    weights: array[float] = field(default_factory=lambda: array("f"))
    following: dict[int, int] = field(default_factory=dict)
    """The token that comes next in each layer."""

    def add(self, route: Route) -> None:
        """Append a line; TraceError where its token does not follow the one before."""
        expected = self.following.get(route.layer, self.start)
        if route.token != expected:
            if route.token < expected:
                allowed = (
                    f"{expected}, the next one of {self.name} in layer {route.layer}: each token once. Several workers "
                    "in one file, or a request that was preempted and computed again, write tokens twice; where "
                    "token_idx counts the rows of a forward pass, state token_idx=pass"
                )
            else:
                allowed = f"{expected}, the next one of {self.name} in layer {route.layer}: none is left out"
            raise route.line.refuse("token_idx", route.token, allowed)
        self.following[route.layer] = expected + 1
        self.lines.append(route.line.number)
        self.layers.append(route.layer)
        self.tokens.append(route.token - self.start)
        self.sizes.append(len(route.ids))
        self.ids.extend(route.ids)
        self.weights.extend(route.weights or [])

    def found(self, layers: list[int], prompt: int | None) -> Found:
        """Return the request; TraceError where a layer lacks tokens, or passes are not of the same tokens."""
        where = f"{self.first.file}: {self.name} from line {self.first.number} on"
        rows = max(self.following.values()) - self.start
        for layer in layers:
            have = self.following.get(layer, self.start) - self.start
            if have != rows:
                allowed = f"{rows}, as in other layers; {_CUT}"
                raise self.first.refuse(f"tokens of {self.name} in layer {layer}", have, allowed)
        if prompt is not None and prompt > self.start + rows:
            raise self.first.refuse(
                f"tokens of {self.name}", self.start + rows, f"at least {prompt}, the prompt_tokens"
            )
        stated = max((prompt or 0) - self.start, 0)
        chunks = self._chunks() if prompt is None else (stated,) * (stated > 0)
        ids, weights = self._arrays(where, rows)
        signals = {} if weights is None else {"expert_weights": weights}
        return Found(where, ids, prefill=sum(chunks), start=self.start, chunks=chunks, signals=signals)

    def _chunks(self) -> tuple[int, ...]:
        """Return the rows of the prompt's passes: those of several rows, or the only one of a prompt of one token."""
        passes: list[list[tuple[int, int, int]]] = []
        at = 0
        for layer, run in groupby(self.layers):
            size = len(list(run))
            if not passes or layer <= passes[-1][-1][0]:
                passes.append([])
            passes[-1].append((layer, size, at))
            at += size
        chunks: list[int] = []
        decoded = False
        for parts in passes:
            rows = parts[0][1]
            for layer, size, at in parts:
                line = Line(self.first.file, self.lines[at])
                if size != rows or len(parts) != len(self.following):
                    allowed = f"{rows} tokens in each of the {len(self.following)} layers of a forward pass; {_CUT}"
                    raise line.refuse(f"pass of {self.name}, layer {layer}", f"{size} in {len(parts)} layers", allowed)
            if rows > 1 and decoded:
                found = f"{rows} tokens after a decode step"
                allowed = "one token, once decoding began: drafts of speculative decoding are not told apart"
                raise Line(self.first.file, self.lines[parts[0][2]]).refuse(f"pass of {self.name}", found, allowed)
            if rows > 1 or (not chunks and self.start == 0 and not decoded):
                chunks.append(rows)
            decoded = decoded or rows == 1
        return tuple(chunks)

    def _arrays(self, where: str, rows: int) -> tuple[Array, Array | None]:
        layers, tokens, sizes = (np.frombuffer(part, np.int32) for part in (self.layers, self.tokens, self.sizes))
        shape = (rows, int(layers.max()) + 1, int(sizes.max()))
        check_request_size(where, *shape)
        slots = np.arange(len(self.ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = (np.repeat(tokens, sizes), np.repeat(layers, sizes), slots)
        ids = np.full(shape, -1, np.int32)
        ids[place] = np.frombuffer(self.ids, np.int32)
        if not self.weights:
            return ids, None
        weights = np.zeros(shape, np.float32)
        weights[place] = np.frombuffer(self.weights, np.float32)
        return ids, weights


def by_request(
    routes: Iterator[Route], layers: set[int], last: Mapping[tuple[int, str], int], prompt: int | None
) -> Iterator[Found]:
    """Yield the requests in the order of their first lines; each is complete at the line whose number ``last`` has.

    ``prompt``: how many tokens the prompts have, where the passes do not tell it. Raises TraceError.
    """
    order = sorted(layers)
    held: dict[tuple[int, str], _Request] = {}
    complete: set[tuple[int, str]] = set()
    size = 0
    for route in routes:
        key = (route.run, route.request)
        request = held.get(key)
        if request is None:
            request = held[key] = _Request(route.line, f"req_id {route.request!r}", route.token)
        request.add(route)
        size += len(route.ids)
        if size > MAX_REQUEST_IDS:
            allowed = f"at most {MAX_REQUEST_IDS} ids of requests whose lines alternate"
            raise route.line.refuse("requests at once", f"{len(held)}, with more ids", allowed)
        if last.get(key) == route.number:
            complete.add(key)
        while held and (first := next(iter(held))) in complete:
            done = held.pop(first)
            complete.remove(first)
            size -= len(done.ids)
            yield done.found(order, prompt)


def by_pass(routes: Iterator[Route], layers: set[int]) -> Iterator[Pass]:
    """Yield the forward passes. The tokens of a layer begin at 0; a layer that does not ascend begins the next pass."""
    order = sorted(layers)
    lines: list[Route] = []
    size = 0
    for route in routes:
        before = lines[-1] if lines else None
        if before is not None and not _continues(route, before):
            if route.token != 0:
                allowed = f"0, or {before.token + 1} in layer {before.layer}: rows of a pass ascend by one"
                raise route.line.refuse("token_idx", route.token, allowed)
            if route.run != before.run or route.layer <= before.layer:
                yield _pass(lines, order)
                lines, size = [], 0
        elif before is None and route.token != 0:
            raise route.line.refuse("token_idx", route.token, "0: the first row of a pass")
        lines.append(route)
        size += len(route.ids)
        if size > MAX_REQUEST_IDS:
            raise route.line.refuse("ids of one pass", size, f"at most {MAX_REQUEST_IDS}")
    if lines:
        yield _pass(lines, order)


def _continues(route: Route, before: Route) -> bool:
    return (route.run, route.layer, route.token) == (before.run, before.layer, before.token + 1)


def _pass(lines: list[Route], order: list[int]) -> Pass:
    parts = {layer: list(part) for layer, part in groupby(lines, key=lambda route: route.layer)}
    first = lines[0].line
    rows = len(next(iter(parts.values())))
    for layer in order:
        have = len(parts.get(layer, []))
        if have != rows:
            raise first.refuse(
                f"rows of the pass from here on in layer {layer}", have, f"{rows} in every layer; {_CUT}"
            )
    slots = max(len(route.ids) for route in lines)
    ids = {layer: np.array([_padded(route.ids, slots, -1) for route in part]) for layer, part in parts.items()}
    weights = {}
    if lines[0].weights is not None:
        weights = {
            layer: np.array([_padded(route.weights or [], slots, 0) for route in part]) for layer, part in parts.items()
        }
    return Pass(first, rows, ids, weights)


def _padded(values: list[int] | list[float], slots: int, fill: int) -> list[float]:
    return [*values, *([fill] * (slots - len(values)))]
