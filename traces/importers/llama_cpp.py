"""Import the experts that tools around llama.cpp write from its callback on ``ffn_moe_topk``: one of two CSVs.

``layer,expert`` (examples/moe-trace of ggml-org/llama.cpp, pull request 28544): after this header, one row per routed
activation. Per ubatch the MoE layers follow one another, per layer its tokens, per token its top-k experts. There are
no tokens in it: a layer number that does not ascend begins the next ubatch, and ``top_k`` rows are a token. The prompt
is evaluated in ubatches of ``ubatch`` tokens (the last one may be smaller), then one token at a time; where the last
one is full or of one token, only ``prompt_tokens`` says where decoding begins. Files that were
put one behind the other are requests: each begins with its header.

``pos,layer,id0,id1,...`` without a header (tools/moe-trace of thecodacus/llama.cpp): one row per token and layer.
Negative positions are the prompt, counted from the end of its batch; from 0 on, decode steps.

In both, llama.cpp computes the last layer of a prompt only for the tokens whose logits it needs: one of an ubatch, or
none. The others are absent there. A file that ends in the middle of an ubatch gives what is whole, and says so.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np

from traces.format.layout import MAX_EXPERTS
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, build
from traces.importers.files import MAX_REQUEST_IDS, Line, text_lines
from traces.importers.passes import MAX_LAYERS, Pass, Turns
from traces.kit.errors import TraceError, UserError
from traces.kit.words import Between

_HEAD = "layer,expert"
_ROW = re.compile(rb"(\d{1,5}),(\d{1,5})")
_WIDE_ROW = re.compile(rb"(-?\d{1,9}),(\d{1,5})((?:,\d{1,5})+)")
_MAX_LINE = 2**16
_CUT = "where this is not the end of the file, no row may be missing"


@dataclass
class _Group:
    """The rows of one layer in one ubatch. ``position``: of its last row, where the file has positions."""

    line: Line
    layer: int
    begins: bool = False
    ends: bool = False
    ids: array[int] = field(default_factory=lambda: array("i"))
    slots: int = 1
    position: int | None = None

    def add(self, line: Line, ids: list[int]) -> None:
        line.at_most("ids of one pass", len(self.ids) + len(ids), MAX_REQUEST_IDS)
        self.ids.extend(ids)

    @property
    def rows(self) -> int:
        return len(self.ids) // self.slots

    @property
    def rest(self) -> int:
        """How many ids there are behind the last whole row."""
        return len(self.ids) % self.slots

    def check(self) -> None:
        """Refuse a group that ends in the middle of a token."""
        if self.rest:
            allowed = f"a multiple of top_k={self.slots}; {_CUT}"
            raise self.line.refuse(f"rows of layer {self.layer}", f"{len(self.ids)} from here on", allowed)


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the file ``source``, which is read three times: for its layers, and twice by build."""
    wide, top_k = _is_wide(source), options.own.get("top_k")
    read, turns = _reading(source, options, wide)
    layers, prompts = set[int](), not wide
    try:
        for group in read():
            layers.add(group.layer)
            prompts = prompts or (group.position or 0) < 0
    except TraceError:
        # What is wrong behind the requests that are wanted does not matter; what is wrong in them is found again.
        if options.limit is None:
            raise
    decoding = {"order_within_k": "as written, not by weight"}
    if not prompts:
        decoding["context"] = "unknown"
        options.note("prompts: none in the file, so how many tokens came before is not known and counted as 0")
    elif wide:
        options.note("prompts: the rows with negative positions")
    else:
        options.note(
            f"prompts: the ubatches up to the first of fewer than {turns.chunk} tokens, or up to the prompt_tokens; "
            "then one token is a decode step"
        )
    file = File(Recorder("llama_cpp", None, None), source.stem, top_k=top_k, decoding=decoding, exact=True)
    note = cache(options.note)  # the file is read twice
    return build(source, target, options, file, lambda: turns.requests(_passes(source, read(), sorted(layers), note)))


def _is_wide(source: Path) -> bool:
    line, raw = next(text_lines(source, "CSV", _MAX_LINE), (Line(source.name, 1), b"nothing"))
    if raw == _HEAD.encode() or _WIDE_ROW.fullmatch(raw):
        return raw != _HEAD.encode()
    raise line.refuse_text(raw, f"the header {_HEAD}, or rows pos,layer,id0,id1,...")


def _reading(source: Path, options: Options, wide: bool) -> tuple[Callable[[], Iterator[_Group]], Turns]:
    if wide:
        for key in ("top_k", "ubatch", "prompt_tokens"):
            if key in options.own:
                raise UserError(f"{key} is given; allowed: not for this file, whose rows have positions and all ids")
        return partial(_wide_groups, source), Turns(None, again=True, hint="positions that say where a prompt ends")
    missing = [key for key in ("top_k", "ubatch") if key not in options.own]
    if missing:
        raise UserError(
            f"{source.name}: {' and '.join(missing)} of this file must be given: top_k=K, the experts of a token, and "
            "ubatch=N, llama.cpp's -ub (512 where it was not given)"
        )
    hint = "top_k= and ubatch= as they were, and one sequence at a time; another request begins with a header"
    turns = Turns(options.own["ubatch"], again=False, hint=hint, prompt=options.own.get("prompt_tokens"))
    return partial(_groups, source, options.own["top_k"]), turns


def _groups(source: Path, top_k: int) -> Iterator[_Group]:
    """Yield the groups of ``layer,expert``, each of whole tokens."""
    group: _Group | None = None
    empty = True
    for line, raw in text_lines(source, "CSV", _MAX_LINE):
        match = _ROW.fullmatch(raw)
        if match is None and raw != _HEAD.encode():
            raise line.refuse("content", raw.decode("latin-1"), f"{_HEAD}, two numbers")
        if group is not None and (match is None or int(match[1]) != group.layer):
            group.ends = match is None
            group.check()
            yield group
            group = None
        if match is not None:
            group = group or _Group(line, line.integer("layer", int(match[1]), 0, MAX_LAYERS - 1), slots=top_k)
            group.add(line, [line.integer("expert", int(match[2]), 0, MAX_EXPERTS - 1)])
            empty = False
    if empty:
        raise Line(source.name, 1).refuse("content", "no routing", f"rows of {_HEAD}")
    if group is not None:
        yield group


def _wide_groups(source: Path) -> Iterator[_Group]:
    """Yield the groups of ``pos,layer,id0,...``: rows of one layer whose negative positions ascend by one."""
    group: _Group | None = None
    decoding = False
    for line, raw in text_lines(source, "CSV", _MAX_LINE):
        match = _WIDE_ROW.fullmatch(raw)
        if match is None:
            raise line.refuse("content", raw.decode("latin-1"), "pos,layer,id0,id1,...: integers")
        position, layer = int(match[1]), line.integer("layer", int(match[2]), 0, MAX_LAYERS - 1)
        ids = [line.integer("id", int(word), 0, MAX_EXPERTS - 1) for word in match[3].split(b",")[1:]]
        if group is None or (layer, position - 1) != (group.layer, group.position) or position >= 0:
            if group is not None:
                yield group
            group = _Group(line, layer, begins=decoding and position < 0, slots=len(ids))
            decoding = position >= 0
        if len(ids) != group.slots:
            raise line.refuse("number of ids", len(ids), f"{group.slots}, as above in this layer")
        group.add(line, ids)
        group.position = position
    assert group is not None
    yield group


def _passes(source: Path, groups: Iterator[_Group], layers: list[int], note: Callable[[str], None]) -> Iterator[Pass]:
    """Put the groups of one ubatch together; one in which the file ends is left out, and ``note`` is told where."""
    if len(layers) == 1:
        found = f"{layers[0]} alone"
        raise Line(source.name, 1).refuse("layer", found, "several layers: their order says where an ubatch ends")
    ubatch: list[_Group] = []
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
        where = f"the rows from line {ubatch[0].line.number} on"
        note(f"left out: {where}, since the file ends in the middle of an ubatch")
    elif ubatch:
        yield prompt.take(ubatch)


def _is_cut(ubatch: list[_Group], layers: list[int]) -> bool:
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

    def take(self, ubatch: list[_Group]) -> Pass:
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


def _complete(ubatch: list[_Group], layers: list[int]) -> Pass:
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


IMPORTER = Importer(
    "llama_cpp",
    import_trace,
    """\
experts that tools around llama.cpp wrote from ffn_moe_topk, as CSV:
layer,expert (examples/moe-trace), a row per activation, which needs top_k and
ubatch; or pos,layer,id0,id1,... (tools/moe-trace), which needs neither.
Weights are not written: the ids of a token stay in the order given.
""",
    {
        "top_k": Annotated[int, Between(1, MAX_EXPERTS), "experts per token"],
        "ubatch": Annotated[
            int,
            Between(1, 2**24),
            "tokens of a full ubatch (llama.cpp's -ub, by default 512): prompts are evaluated in such chunks, each is"
            " one pass",
        ],
        "prompt_tokens": Annotated[
            int, Between(1, 2**24), "of the prompt: needed only where its last ubatch is full or has one token"
        ],
        "n_experts": N_EXPERTS,
    },
)
