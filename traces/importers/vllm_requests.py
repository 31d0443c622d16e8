"""From the lines of a routing logger in vLLM to requests: by the request that a line names, or by forward pass."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from traces.importers.build import Found
from traces.importers.files import MAX_REQUEST_IDS, Line
from traces.importers.found import Cells
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
    """The lines of one request, in their order: their numbers, and their experts."""

    first: Line
    name: str
    start: int
    lines: array[int] = field(default_factory=lambda: array("q"))
    cells: Cells = field(default_factory=Cells)
    following: dict[int, int] = field(default_factory=dict)
    """The token that comes next in each layer."""

    def add(self, route: Route) -> None:
        """Append a line; TraceError where its token does not follow the one before."""
        expected = self.following.get(route.layer, self.start)
        if route.token != expected:
            why = "none is left out"
            if route.token < expected:
                why = (
                    "each token once. Several workers in one file, or a request that was preempted and computed again, "
                    "write tokens twice; where token_idx counts the rows of a forward pass, state token_idx=pass"
                )
            allowed = f"{expected}, the next one of {self.name} in layer {route.layer}: {why}"
            raise route.line.refuse("token_idx", route.token, allowed)
        self.following[route.layer] = expected + 1
        self.lines.append(route.line.number)
        self.cells.add(route.token - self.start, route.layer, route.ids, route.weights)

    def found(self, layers: list[int], prompt: int | None) -> Found:
        """Return the request; TraceError where a layer lacks tokens, or passes are not of the same tokens."""
        where = f"{self.first.file}: {self.name} from line {self.first.number} on"
        rows = max(self.following.values()) - self.start
        for layer in layers:
            have = self.following.get(layer, self.start) - self.start
            if have != rows:
                allowed = f"{rows}, as in other layers; {_CUT}"
                raise self.first.refuse(f"tokens of {self.name} in layer {layer}", have, allowed)
        if prompt is not None and prompt > (tokens := self.start + rows):
            raise self.first.refuse(f"tokens of {self.name}", tokens, f"at least {prompt}, the prompt_tokens")
        stated = max((prompt or 0) - self.start, 0)
        chunks = self._chunks() if prompt is None else (stated,) * (stated > 0)
        ids, signals = self.cells.arrays(where)
        return Found(where, ids, prefill=sum(chunks), start=self.start, chunks=chunks, signals=signals)

    def _chunks(self) -> tuple[int, ...]:
        """Return the rows of the prompt's passes: those of several rows, or the only one of a prompt of one token."""
        passes: list[list[tuple[int, int, Line]]] = []
        at = 0
        for layer, run in groupby(self.cells.places[1::3]):
            if not passes or layer <= passes[-1][-1][0]:
                passes.append([])
            passes[-1].append((layer, len(list(run)), Line(self.first.file, self.lines[at])))
            at += passes[-1][-1][1]
        chunks, decoded = list[int](), False
        for parts in passes:
            _, rows, begin = parts[0]
            for layer, size, line in parts:
                if size != rows or len(parts) != len(self.following):
                    allowed = f"{rows} tokens in each of the {len(self.following)} layers of a forward pass; {_CUT}"
                    raise line.refuse(f"pass of {self.name}, layer {layer}", f"{size} in {len(parts)} layers", allowed)
            if rows > 1 and decoded:
                found = f"{rows} tokens after a decode step"
                allowed = "one token, once decoding began: drafts of speculative decoding are not told apart"
                raise begin.refuse(f"pass of {self.name}", found, allowed)
            if rows > 1 or (not chunks and self.start == 0 and not decoded):
                chunks.append(rows)
            decoded = decoded or rows == 1
        return tuple(chunks)


def by_request(
    routes: Iterator[Route], layers: set[int], last: Mapping[tuple[int, str], int], prompt: int | None
) -> Iterator[Found]:
    """Yield the requests in the order of their first lines; each is complete at the line whose number ``last`` has.

    ``prompt``: how many tokens the prompts have, where the passes do not tell it. Raises TraceError.
    """
    order, size = sorted(layers), 0
    held: dict[tuple[int, str], _Request] = {}
    complete: set[tuple[int, str]] = set()
    for route in routes:
        key = (route.run, route.request)
        if key not in held:
            held[key] = _Request(route.line, f"req_id {route.request!r}", route.token)
        held[key].add(route)
        size += len(route.ids)
        route.line.at_most("ids of requests whose lines alternate", size, MAX_REQUEST_IDS)
        if last.get(key) == route.number:
            complete.add(key)
        while held and (first := next(iter(held))) in complete:
            done = held.pop(first)
            complete.remove(first)
            size -= len(done.cells.ids)
            yield done.found(order, prompt)


def by_pass(routes: Iterator[Route], layers: set[int]) -> Iterator[Pass]:
    """Yield the forward passes. The tokens of a layer begin at 0; a layer that does not ascend begins the next pass."""
    order, size = sorted(layers), 0
    lines: list[Route] = []
    for route in routes:
        before = lines[-1] if lines else None
        if before is None or (route.run, route.layer, route.token) != (before.run, before.layer, before.token + 1):
            if route.token != 0:
                allowed = "0: the first row of a pass"
                if before is not None:
                    allowed = f"0, or {before.token + 1} in layer {before.layer}: rows of a pass ascend by one"
                raise route.line.refuse("token_idx", route.token, allowed)
            if before is not None and (route.run != before.run or route.layer <= before.layer):
                yield _pass(lines, order)
                lines, size = [], 0
        lines.append(route)
        size += len(route.ids)
        route.line.at_most("ids of one pass", size, MAX_REQUEST_IDS)
    if lines:
        yield _pass(lines, order)


def _pass(lines: list[Route], order: list[int]) -> Pass:
    first, have = lines[0].line, Counter(route.layer for route in lines)
    rows = have[lines[0].layer]
    for layer in order:
        if have[layer] != rows:
            field = f"rows of the pass from here on in layer {layer}"
            raise first.refuse(field, have[layer], f"{rows} in every layer; {_CUT}")
    cells = Cells()
    for route in lines:
        cells.add(route.token, route.layer, route.ids, route.weights)
    ids, signals = cells.arrays(f"{first.file}: pass from {first.where} on")
    weights = signals.get("expert_weights")
    by_layer = {} if weights is None else {layer: weights[:, layer] for layer in order}
    return Pass(first, rows, {layer: ids[:, layer] for layer in order}, by_layer)
