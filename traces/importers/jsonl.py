"""Import JSON Lines with one object per token and layer, in the order in which a recorder sees them.

``token`` is the position in the request (0: the first token of the prompt) and goes up by one; ``layer`` ascends
within a token. A layer that is left out did not see the token, a list of fewer ids is a smaller k, and -1 is no
expert: all become absent entries. ``ids`` go by descending weight, and are sorted so where ``weights`` are given. A
request that starts at a later position has earlier tokens in its KV cache. Optional, on every line or on none:
``request`` (ascending; without it there is one), ``weights``, ``token_id``, and within a request ``phase``: without it
every token is taken as a decode step of its own, and the manifest says so. All prefill tokens of a request are one
pass.

The first line may be a header instead, with any of ``model``, ``n_layers``, ``n_experts``, ``top_k`` and
``expert_bytes`` (a list, one per layer); what it does not say is taken from the lines.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import DECODE, MAX_EXPERTS, PREFILL
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import MAX_REQUEST_IDS, Line, json_lines
from traces.importers.found import Cells
from traces.kit.errors import one_of

_HEAD = ("model", "n_layers", "n_experts", "top_k", "expert_bytes")
_NEEDED, _MORE = ("token", "layer", "ids"), ("request", "phase", "weights", "token_id")
_PHASES = {"prefill": PREFILL, "decode": DECODE}
_MAX_INT = 2**31 - 1


@dataclass
class _Request:
    """One request: per token its phase and id, per line its experts."""

    number: int
    first: Line
    start: int
    keys: frozenset[str]
    phases: array[int] = field(default_factory=lambda: array("b"))
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    cells: Cells = field(default_factory=Cells)


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the file ``source``. E is ``options.n_experts``, else the header's."""
    head, decoding = _read_head(source), dict[str, Any]()
    most = options.n_experts or head.get("n_experts") or MAX_EXPERTS
    name, sizes = head.get("model") or source.stem, {key: head[key] for key in _HEAD[1:] if key in head}
    file = File(Recorder("jsonl", None, None), name, **sizes, decoding=decoding)

    def read() -> Iterator[Found]:
        for request in _requests(source, head, most):
            if "phase" not in request.keys and not decoding:
                decoding["phases"] = "not recorded: all decode"
                options.note("no phase in the file: every token is a decode pass; phase in each line states it")
            where = f"{source.name}: {request.first.where}"
            ids, signals = request.cells.arrays(where)
            if "token_id" in request.keys:
                signals["token_ids"] = np.frombuffer(request.token_ids, np.int32)
            start, prefill = request.start, request.phases.count(PREFILL)
            yield Found(where, ids, prefill, start, signals=signals, first_row=start)

    return build(source, target, options, file, read)


def _read_head(source: Path) -> dict[str, Any]:
    """Return what the header says, the number of layers also where it is that of expert_bytes; nothing without one."""
    line, head = next(json_lines(source), (Line(source.name, 1), dict[str, Any]()))
    if not head:
        raise line.refuse("content", "nothing", "a header or a line with token, layer and ids")
    if set(head) & {*_NEEDED, *_MORE}:
        return {}
    if not set(head) <= set(_HEAD):
        served = set(head) & {"routed_experts", "choices", "meta_info", "usage"}
        hint = "; answers of servers are read by import routed_experts" if served else ""
        raise line.refuse("keys", one_of(head), f"a header with some of {one_of(_HEAD)}{hint}")
    model = head.get("model")
    if model is not None and not (isinstance(model, str) and model.isprintable() and model):
        raise line.refuse("model", model, "printable text")
    for key in _HEAD[1:4]:
        if key in head:
            line.integer(key, head[key], 1, MAX_EXPERTS)
    if "expert_bytes" in head:
        sizes = line.items("expert_bytes", head["expert_bytes"], MAX_EXPERTS)
        for index, size in enumerate(sizes):
            line.integer(f"expert_bytes[{index}]", size, 0, 2**62)
        if len(sizes) != head.setdefault("n_layers", len(sizes)):
            raise line.refuse("length of expert_bytes", len(sizes), f"{head['n_layers']}, the layers")
    return head


def _requests(source: Path, head: dict[str, Any], n_experts: int) -> Iterator[_Request]:
    """Yield the requests, one in memory at a time."""
    request: _Request | None = None
    line, always = Line(source.name, 1), None
    for line, node in islice(json_lines(source), bool(head), None):
        line.keys(node, _NEEDED, _MORE)
        keys = frozenset(node) & set(_MORE)
        always = keys - {"phase"} if always is None else always
        number = line.integer("request", node.get("request", 0), 0, _MAX_INT)
        if request is not None and number != request.number:
            yield request
            if number < request.number:
                raise line.refuse("request", number, f"above {request.number}, the one before")
            request = None
        request = request or _Request(number, line, line.integer("token", node["token"], 0, _MAX_INT - 2**24), keys)
        if keys != request.keys or keys - {"phase"} != always:
            raise line.refuse("keys", one_of(node), f"those of line {request.first.number}, and of the file")
        _add(line, node, request, head, n_experts)
    if request is None:
        raise line.refuse("content", "no routing", "lines with token, layer and ids")
    yield request


def _add(line: Line, node: dict[str, Any], request: _Request, head: dict[str, Any], n_experts: int) -> None:
    last = request.start + len(request.phases) - 1
    token = line.integer("token", node["token"], 0, _MAX_INT)
    layer = line.integer("layer", node["layer"], 0, MAX_EXPERTS - 1)
    if layer >= head.get("n_layers", MAX_EXPERTS):
        raise line.refuse("layer", layer, f"at most {head['n_layers'] - 1}, as the header says")
    phase = node.get("phase", "decode")
    if not isinstance(phase, str) or phase not in _PHASES:
        raise line.refuse("phase", phase, one_of(_PHASES))
    token_id = line.integer("token_id", node.get("token_id", 0), 0, _MAX_INT)
    if token == last and request.phases:
        if layer <= (before := request.cells.places[-2]):
            raise line.refuse("layer", layer, f"above {before}: layers ascend within a token")
        if (_PHASES[phase], token_id) != (request.phases[-1], request.token_ids[-1]):
            raise line.refuse("phase or token_id", f"{phase}, {token_id}", "the same on all lines of a token")
    elif token != last + 1:
        raise line.refuse("token", token, f"{last + 1}: tokens ascend by one within a request")
    else:
        if _PHASES[phase] == PREFILL and request.phases and request.phases[-1] == DECODE:
            raise line.refuse("phase", phase, "decode: it is never followed by prefill")
        request.phases.append(_PHASES[phase])
        request.token_ids.append(token_id)
    ids = line.ids("ids", node["ids"], n_experts, n_experts)
    if len(ids) > head.get("top_k", MAX_EXPERTS):
        raise line.refuse("number of ids", len(ids), f"at most {head['top_k']}, as the header says")
    line.at_most("ids of one request", len(request.cells.ids) + len(ids), MAX_REQUEST_IDS)
    weights = line.weights("weights", node["weights"], len(ids)) if "weights" in node else None
    request.cells.add(len(request.phases) - 1, layer, ids, weights)


IMPORTER = Importer(
    "jsonl",
    import_trace,
    """\
one JSON object per line, token and layer, tokens and layers ascending
  {"request": 0, "phase": "decode", "token": 17, "layer": 3, "ids": [9, 4],
   "weights": [0.7, 0.3], "token_id": 42}
request, phase (prefill, decode), weights and token_id are optional; without
phase every token is a decode step. A layer left out for a token, fewer ids,
or -1 become absent entries. The first line may be a header with model,
n_layers, n_experts, top_k, expert_bytes.
""",
    {"n_experts": N_EXPERTS},
)
