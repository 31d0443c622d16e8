"""The rows of llama.cpp's recordings, put together to ubatches: a layer that does not ascend begins the next one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from traces.importers.files import MAX_REQUEST_IDS, Line
from traces.importers.passes import Pass

_CUT = "where this is not the end of the file, no row may be missing"


@dataclass
class Group:
    """The rows of one layer in one ubatch. ``position``: of its last row, where the file has positions."""

    line: Line
    layer: int
    begins: bool = False
    ends: bool = False
    ids: array[int] = field(default_factory=lambda: array("i"))
    slots: int = 1
    position: int | None = None

    def add(self, line: Line, ids: list[int]) -> None:
        """Append what a line has."""
        if len(self.ids) + len(ids) > MAX_REQUEST_IDS:
            raise line.refuse("ids of one pass", "more", f"at most {MAX_REQUEST_IDS}")
        self.ids.extend(ids)

    @property
    def rows(self) -> int:
        """How many whole tokens it has."""
        return len(self.ids) // self.slots

    @property
    def rest(self) -> int:
        """How many ids there are behind the last whole token."""
        return len(self.ids) % self.slots

    def check(self) -> None:
        """Refuse a group that ends in the middle of a token."""
        if self.rest:
            allowed = f"a multiple of top_k={self.slots}; {_CUT}"
            raise self.line.refuse(f"rows of layer {self.layer}", f"{len(self.ids)} from here on", allowed)


def passes(source: Path, groups: Iterator[Group], layers: list[int], cut: Callable[[Line], None]) -> Iterator[Pass]:
    """Put the groups of one ubatch together. One in which the file ends is left out, and ``cut`` is told where."""
    if len(layers) == 1:
        found = f"{layers[0]} alone"
        raise Line(source.name, 1).refuse("layer", found, "several layers: their order says where an ubatch ends")
    ubatch: list[Group] = []
    prompt, whole = _Prompt(layers), False
    for group in groups:
        if ubatch and (group.begins or group.layer <= ubatch[-1].layer):
            yield prompt.take(ubatch)
            ubatch, whole = [], True
        ubatch.append(group)
        if group.ends:
            yield prompt.take(ubatch)
            ubatch, whole = [], True
    if ubatch and whole and _is_cut(ubatch, layers):
        cut(ubatch[0].line)
    elif ubatch:
        yield prompt.take(ubatch)


def _is_cut(ubatch: list[Group], layers: list[int]) -> bool:
    """Whether an ubatch stops in its last group: all layers before are there and as long as the first."""
    *before, last = ubatch
    present, rows = [group.layer for group in ubatch], ubatch[0].rows
    if present != layers[: len(present)] or any(group.rows != rows for group in before) or last.rows > rows:
        return False
    # llama.cpp itself spares tokens in the last layer of a prompt.
    spared = last.rest == 0 and rows > 1 and (last.layer == layers[-1] or present == layers[:-1])
    return not spared and (last.rest > 0 or last.rows < rows or len(present) < len(layers))


@dataclass
class _Prompt:
    """Where the prompt stands whose ubatches have positions: each says how many tokens earlier batches had."""

    layers: list[int]
    tokens: int = 0
    before: int = 0
    full: int = 0
    decoded: int = 0

    def take(self, ubatch: list[Group]) -> Pass:
        """Return the pass of an ubatch; where only another prompt fits, it begins a request. Raises TraceError."""
        one, position = _complete(ubatch, self.layers), ubatch[0].position
        if position is None:
            return one
        if not one.prefill:
            if position != self.decoded:
                raise one.line.refuse("pos", position, f"{self.decoded}, the next decode step")
            self.tokens = self.full = 0
            self.decoded += 1
            return one
        self.decoded = 0
        before = -position - 1
        same_batch = self.full > 0 and before == self.before
        if not same_batch and before == 0:
            self.tokens, one = 0, replace(one, begins=True)
        elif not same_batch and before != self.tokens:
            allowed = f"{-self.tokens - one.rows}, behind the {self.tokens} tokens of this prompt so far"
            raise one.line.refuse("pos", position - one.rows + 1, allowed)
        self.full = one.rows if not same_batch or one.rows == self.full else 0
        self.tokens, self.before = self.tokens + one.rows, before
        return one


def _complete(ubatch: list[Group], layers: list[int]) -> Pass:
    """Check that an ubatch has all layers, of the same tokens; the last layer of a prompt may have one or none."""
    rows, first = ubatch[0].rows, ubatch[0].line
    ubatch[-1].check()
    prefill = None if ubatch[0].position is None else ubatch[0].position < 0
    by_layer = {group.layer: group for group in ubatch}
    for layer in layers:
        group = by_layer.get(layer)
        spared = layer == layers[-1] and (rows > 1 or bool(prefill))
        if group is None and not spared:
            allowed = f"every layer of the file in each ubatch; {_CUT}"
            raise first.refuse(f"layer {layer} of this ubatch", "missing", allowed)
        if group is not None and group.rows != rows and not (spared and group.rows == 1):
            allowed = f"{rows}, as in layer {ubatch[0].layer} of this ubatch"
            raise group.line.refuse(f"tokens of layer {layer}", group.rows, allowed)
        if group is not None and not prefill and group.position != ubatch[0].position:
            raise group.line.refuse("pos", group.position, f"{ubatch[0].position}, as in the layers before")
    ids = {group.layer: np.array(group.ids, np.int32).reshape(group.rows, group.slots) for group in ubatch}
    return Pass(first, rows, ids, prefill=prefill, begins=ubatch[0].begins, ends=ubatch[-1].ends)
