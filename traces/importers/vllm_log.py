"""Import the JSON Lines of routing loggers that are patched into vLLM's FusedMoE (VLLM_LOG_MOE=FILE).

    {"type": "meta", "model_id": "Qwen/Qwen1.5-MoE-A2.7B-Chat", "layers_logged": [0, 1], "top_k": 4, "num_experts": 60}
    {"type": "route", "req_id": "r0", "token_idx": 0, "layer": 0, "topk_ids": [43, 5, 7, 58], "topk_weights": [...]}

Sources: moe_logger.py of weiran0129/vLLM-MoE-Logger and of KaxitPandya/cerebras-assesment2, and
vllm-v0.15.1-moe-logger.patch of KennethWang1221/vllm-expert-profiler. They agree in the fields and differ in what
``token_idx`` counts:

- the tokens of a request, ``token_idx=request``, the default. It ascends by one per request and layer; lines of several
  requests may alternate. A request that begins at a later token has earlier ones in its KV cache.
- the rows of a forward pass, ``token_idx=pass``: it begins again at 0 in every pass, and ``req_id`` is one constant, or
  a new one per pass. Whose rows they are is known only where requests were served one at a time. The first passes are
  those in which vLLM warms up, on tokens that nobody sent: ``skip=N`` leaves them out.

A call of the logger writes the rows of one layer, so with two layers or more the order of the lines shows the passes:
of several rows, the prompt or a chunk of it, of one row, a decode step. With one layer it does not: ``prompt_tokens=N``
states where the prompts end. A line of type meta in the middle begins another run, whose requests are others.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from traces.format.layout import MAX_EXPERTS
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import MAX_REQUEST_IDS, Line, json_lines
from traces.importers.found import Cells
from traces.importers.passes import CUT, MAX_LAYERS, Route, Turns, by_pass
from traces.kit.errors import TraceError, UserError, one_of
from traces.kit.words import Between

_NEEDED, _MORE = ("token_idx", "layer", "topk_ids"), ("type", "req_id", "topk_weights", "timestamp")
_MAX_INT = 2**31 - 1
_MAX_REQUESTS = 2**20


@dataclass
class _Head:
    """What the lines of type meta say, and what a first reading finds; ``last``: line of a request, by run and id."""

    model: str | None = None
    n_experts: int | None = None
    top_k: int | None = None
    layers: set[int] = field(default_factory=set)
    last: dict[tuple[int, str], int] = field(default_factory=dict)


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import ``source``, which is read three times; memory is bounded by the requests whose lines alternate."""
    own, head = options.own, _survey(source, options.limit)
    passes, single = own.get("token_idx") == "pass", len(head.layers) == 1
    if single and not passes and "prompt_tokens" not in own:
        raise UserError(
            f"{source.name}: with one layer logged, the file does not say where a prompt ends; allowed: "
            "prompt_tokens=N, the first N tokens of every request (0: every token is a decode step), or "
            "token_idx=pass, where token_idx counts the rows of a forward pass"
        )
    for key, fits in (("prompt_tokens", "chunk" in own if passes else single), ("chunk", passes), ("skip", passes)):
        if key in own and not fits:
            one = "a file with one layer: here the passes say where prompts end"
            needs = "token_idx=pass" if key != "prompt_tokens" else "chunk=" if passes else one
            raise UserError(f"{key} is {own[key]}; allowed: only with {needs}")
    hint = (
        "with several requests in a pass, or prompts in chunks, the log does not say whose rows they are: serve one "
        "request at a time, and state chunk=N where prompts came in chunks of N; skip=N leaves out N warm-up passes"
    )
    prompt = own.get("prompt_tokens")
    turns = Turns(own.get("chunk"), again=True, hint=hint, prompt=prompt)

    def read() -> Iterator[Found]:
        routes = _routes(source, _Head())
        if passes:
            return turns.requests(islice(by_pass(routes, head.layers), own.get("skip", 0), None))
        return _by_request(routes, head.layers, head.last, prompt)

    if passes:
        options.note("requests: one after the other (token_idx=pass); a pass of several rows is a prompt")
    else:
        told = "the first passes of several rows" if prompt is None else f"the first {prompt} tokens (prompt_tokens)"
        options.note(f"prompts: {told} of each req_id; token_idx counts the tokens of a request")
    known, name = Recorder("vllm_log", None, None), head.model or source.stem
    file = File(known, name, n_experts=head.n_experts, top_k=head.top_k, exact=True)
    return build(source, target, options, file, read)


def _survey(source: Path, limit: int | None) -> _Head:
    """Read the file once; with a ``limit``, what is wrong behind the requests that are wanted does not matter."""
    head, begun = _Head(), 0
    try:
        for route in _routes(source, head):
            head.layers.add(route.layer)
            key = (route.run, route.request)
            if key not in head.last and len(head.last) == _MAX_REQUESTS:
                raise route.line.refuse("requests", "more", f"at most {_MAX_REQUESTS}")
            begun = begun if key in head.last else route.number
            head.last[key] = route.number
    except TraceError:
        if limit is None or not head.layers:
            raise
        # Whoever was still being written when the last request began may have more lines.
        head.last = {key: last for key, last in head.last.items() if last < begun}
    if not head.layers:
        raise Line(source.name, 1).refuse("content", "no routing", f"lines with {one_of(_NEEDED)}")
    return head


def _routes(source: Path, head: _Head) -> Iterator[Route]:
    """Yield the lines of type route; those of type meta go into ``head``."""
    run, weighed = 0, None
    for number, (line, node) in enumerate(json_lines(source)):
        if (kind := node.get("type", "route")) == "meta":
            _read_meta(line, node, head, run)
            run += 1
            continue
        if kind != "route":
            raise line.refuse("type", kind, "meta, route")
        line.keys(node, _NEEDED, _MORE)
        request = node.get("req_id", "")
        if type(request) not in (str, int) or len(str(request)) > 200:
            raise line.refuse("req_id", request, "text of at most 200 characters")
        token = line.integer("token_idx", node["token_idx"], 0, _MAX_INT - 2**24)
        layer = line.integer("layer", node["layer"], 0, MAX_LAYERS - 1)
        ids = line.ids("topk_ids", node["topk_ids"], head.top_k or MAX_EXPERTS, head.n_experts or MAX_EXPERTS)
        weights = node.get("topk_weights")
        if weighed not in (None, weights is not None):
            raise line.refuse("topk_weights", "missing" if weighed else "there", "on every line, or on none")
        if weighed := weights is not None:
            weights = line.weights("topk_weights", weights, len(ids))
        yield Route(line, number, run, str(request), token, layer, ids, weights)


def _read_meta(line: Line, node: dict[str, Any], head: _Head, run: int) -> None:
    """Note what a line of type meta says; the seed, the versions and whatever else it has stay unread."""
    model = node.get("model_id")
    n_experts, top_k = (
        None if node.get(key) is None else line.integer(key, node[key], 1, MAX_EXPERTS)
        for key in ("num_experts", "top_k")
    )
    found = (model if isinstance(model, str) and model.isprintable() and model else None, n_experts, top_k)
    before = (head.model, head.n_experts, head.top_k)
    if run and found != before:
        raise line.refuse("model_id, num_experts, top_k", found, f"{before}, as above")
    head.model, head.n_experts, head.top_k = found


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
                allowed = f"{rows}, as in other layers; {CUT}"
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
                    allowed = f"{rows} tokens in each of the {len(self.following)} layers of a forward pass; {CUT}"
                    raise line.refuse(f"pass of {self.name}, layer {layer}", f"{size} in {len(parts)} layers", allowed)
            if rows > 1 and decoded:
                found = f"{rows} tokens after a decode step"
                allowed = "one token, once decoding began: drafts of speculative decoding are not told apart"
                raise begin.refuse(f"pass of {self.name}", found, allowed)
            if rows > 1 or (not chunks and self.start == 0 and not decoded):
                chunks.append(rows)
            decoded = decoded or rows == 1
        return tuple(chunks)


def _by_request(
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


IMPORTER = Importer(
    "vllm_log",
    import_trace,
    """\
JSON Lines of routing loggers in vLLM (VLLM_LOG_MOE): lines of type meta, and
of type route with req_id, token_idx, layer, topk_ids, topk_weights.
""",
    {
        "token_idx": Annotated[
            Literal["request", "pass"],
            "request: token_idx counts the tokens of a request; pass: it counts the rows of a forward pass, and"
            " requests were served one at a time, so that a pass of several rows is a prompt; without it request",
        ],
        "skip": Annotated[
            int,
            Between(1, 2**31),
            "with token_idx=pass: leave out the first so many passes, those in which vLLM warms up",
        ],
        "chunk": Annotated[int, Between(2, 2**24), "with token_idx=pass: prompts come in chunks of so many tokens"],
        "prompt_tokens": Annotated[
            int,
            Between(0, 2**24),
            "with one layer logged: the first so many tokens of each request are its prompt (0: every token is a decode"
            " step); with chunk=, needed only where a last chunk is full or has one token",
        ],
        "n_experts": N_EXPERTS,
    },
)
