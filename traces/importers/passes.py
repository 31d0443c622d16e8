"""Recordings by forward pass: a runtime that has one request at a time writes passes, and requests are made of them.

Where a request begins, such a file does not say. It is seen by the number of tokens: a pass of several tokens is a
prompt, or a chunk of one; a pass of one token after it is a decode step. Where that does not tell, it is refused.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from traces.format.layout import Array
from traces.importers.build import Found
from traces.importers.files import MAX_REQUEST_IDS, Line, check_request_size
from traces.importers.found import Cells

MAX_LAYERS = 2**12
"""Layers are numbered below this, many times what models have: a file is held with all layers up to its last one."""
CUT = "of a file that was cut off, leave its last lines out, or take the requests before them with limit=N"


@dataclass(frozen=True)
class Pass:
    """One forward pass: for each layer of the file the ids [rows, k] of its tokens, -1 where absent.

    A layer with fewer rows than ``rows`` computed the last tokens alone. ``line``: where it begins. ``prefill``: None
    where the file does not say it. ``begins``, ``ends``: the file says that a request begins or ends with it.
    """

    line: Line
    rows: int
    ids: Mapping[int, Array]
    weights: Mapping[int, Array] = field(default_factory=dict)
    prefill: bool | None = None
    begins: bool = False
    ends: bool = False


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


@dataclass(frozen=True)
class Turns:
    """How passes become requests.

    ``chunk``: tokens of a full chunk of a prompt, after which the prompt may go on; None: prompts are one pass.
    ``prompt``: tokens of each prompt, where they were stated. Without them, a single token after a full chunk is
    refused: it can be the prompt's last as well as the first decode step.
    ``again``: a pass of several tokens after a decode step begins the next request, though the file does not say so.
    ``hint``: what to do where it cannot be told.
    """

    chunk: int | None
    again: bool
    hint: str
    prompt: int | None = None

    def requests(self, passes: Iterable[Pass]) -> Iterator[Found]:
        """Yield the requests, one in memory at a time. Raises TraceError with the line of the pass."""
        request: list[Pass] = []
        prompt, size, decoded = 0, 0, 0
        for one in passes:
            told = one.prefill is not None
            prefill = one.rows > 1 if one.prefill is None else one.prefill
            if request and (one.begins or (prefill and not told and self._is_next(one, request, prompt))):
                yield self._found(request, prompt)
                request, prompt, size = [], 0, 0
            if prefill and self.chunk is not None and one.rows > self.chunk:
                raise one.line.refuse("tokens of a pass", one.rows, f"at most {self.chunk}; {self.hint}")
            if request and not prefill and not told and request[-1].rows == self.chunk and decoded == 0:
                if self.prompt is None:
                    found = f"1 token after a full chunk of {self.chunk}"
                    allowed = "the last of the prompt, or the first decode step: prompt_tokens=N says which"
                    raise one.line.refuse("a pass", found, allowed)
                prefill = prompt < self.prompt
            decoded = 0 if not request or prefill else decoded + 1
            # The first pass of all is the prompt, even of one token, unless the file says otherwise.
            prompt += one.rows if prefill or not (request or told) else 0
            request.append(one)
            size += sum(ids.size for ids in one.ids.values())
            one.line.at_most("ids of one request", size, MAX_REQUEST_IDS)
            if one.ends:
                yield self._found(request, prompt)
                request, prompt, size = [], 0, 0
        if request:
            yield self._found(request, prompt)

    def _is_next(self, one: Pass, request: list[Pass], prompt: int) -> bool:
        """Say whether a prefill pass begins the next request; if not, it goes on with a prompt."""
        before = request[-1]
        if sum(item.rows for item in request) > prompt:
            if not self.again:
                found = f"{one.rows} tokens after a decode step"
                raise one.line.refuse("a pass", found, f"decode steps of one token, once decoding began; {self.hint}")
            return True
        if before.rows == self.chunk:
            return False
        found = f"{one.rows} tokens after a pass of {before.rows}"
        raise one.line.refuse("a pass", found, f"decode steps of one token after a prompt; {self.hint}")

    def _found(self, request: list[Pass], prompt: int) -> Found:
        first, ends = request[0].line, list(accumulate(one.rows for one in request))
        if self.prompt not in (None, prompt):
            raise first.refuse("tokens of the prompt from here on", prompt, f"{self.prompt}, the prompt_tokens")
        n_layers = 1 + max(max(one.ids) for one in request)
        slots = max(ids.shape[1] for one in request for ids in one.ids.values())
        where = f"{first.file}: request from {first.where} on"
        check_request_size(where, ends[-1], n_layers, slots)
        ids = np.full((ends[-1], n_layers, slots), -1, np.int32)
        signals = {"expert_weights": np.zeros(ids.shape, np.float32)} if request[0].weights else {}
        for one, end in zip(request, ends, strict=True):
            for array, parts in ((ids, one.ids), (signals.get("expert_weights", ids), one.weights)):
                for layer, part in parts.items():
                    array[end - len(part) : end, layer, : part.shape[1]] = part
        chunks = [one.rows for one, end in zip(request, ends, strict=True) if end - one.rows < prompt]
        return Found(where, ids, prefill=prompt, chunks=chunks, signals=signals)


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
                yield _whole(lines, order)
                lines, size = [], 0
        lines.append(route)
        size += len(route.ids)
        route.line.at_most("ids of one pass", size, MAX_REQUEST_IDS)
    if lines:
        yield _whole(lines, order)


def _whole(lines: list[Route], order: list[int]) -> Pass:
    first, have = lines[0].line, Counter(route.layer for route in lines)
    rows = have[lines[0].layer]
    for layer in order:
        if have[layer] != rows:
            field = f"rows of the pass from here on in layer {layer}"
            raise first.refuse(field, have[layer], f"{rows} in every layer; {CUT}")
    cells = Cells()
    for route in lines:
        cells.add(route.token, route.layer, route.ids, route.weights)
    ids, signals = cells.arrays(f"{first.file}: pass from {first.where} on")
    weights = signals.get("expert_weights")
    by_layer = {} if weights is None else {layer: weights[:, layer] for layer in order}
    return Pass(first, rows, {layer: ids[:, layer] for layer in order}, by_layer)
