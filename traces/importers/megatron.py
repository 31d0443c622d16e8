"""Import the router trace of Megatron Core: ``router_trace_rankN.jsonl``, one line per step, block and layer.

    {"step": 0, "stage": "pre_dispatch", "block": "decoder", "layer": 3, "rank": 0, "num_tokens": 128, "topk": 22,
     "top_indices": [[12, 45, ...], ...]}

Source: RouterTracer in megatron/core/transformer/moe/router_trace.py of NVIDIA/Megatron-LM (--moe-routing-trace-path).
``top_indices`` [num_tokens][topk] are the rows of one forward pass as this rank's router saw them; -1 is absent. Of a
boolean routing map the tracer writes the experts by ascending number, so their order says nothing of the weights, which
are not written. Layers of multi-token prediction (block "mtp") are left out. Hidden states and logits lie in other
files (``hs_*``, ``logit_*``) and are not read.

A pass is a run of ascending layers of one step. It holds the tokens of all requests in it and no request ids. So
``mode=inference``, the default, takes passes of one request after the other: several tokens are a prompt, one token is
a decode step. ``mode=training`` takes every pass as a prompt of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import MAX_REQUEST_IDS, Line, json_lines
from traces.importers.passes import MAX_LAYERS, Pass, Turns
from traces.kit.errors import one_of
from traces.kit.words import Between

_NEEDED = ("step", "layer", "num_tokens", "topk", "top_indices")
_SIDECARS = ("hs_offset", "hs_bytes", "hs_shape", "logit_offset", "logit_bytes", "logit_shape")
_MORE = ("stage", "block", "mtp_idx", "rank", *_SIDECARS)
_MAX_INT = 2**31 - 1
_HINT = (
    "with several requests in a pass, or prompts in chunks, a trace does not say whose tokens they are: serve one "
    "request at a time, state chunk=N, or take each pass as a prompt with mode=training"
)


@dataclass(frozen=True)
class _Record:
    line: Line
    step: int
    layer: int
    ids: Array


def import_trace(source: Path, target: Path, options: Options) -> Path:
    training = options.own.get("mode") == "training"
    prompt = None if training else options.own.get("prompt_tokens")
    turns = Turns(options.own.get("chunk"), again=True, hint=_HINT, prompt=prompt)
    left_out = set[Line]()

    def read() -> Iterator[Found]:
        passes = _passes(source, left_out)
        return turns.requests((replace(one, ends=True, prefill=True) for one in passes) if training else passes)

    serving = "passes of several tokens; a pass of one token is a decode step"
    options.note(f"prompts: {'each pass is one, of all tokens in it (mode=training)' if training else serving}")
    options.note("the tokens are those of this file's rank: with parallelism over tokens or layers, a part of them")
    decoding = {"order_within_k": "as written, not by weight", "passes": "training" if training else "inference"}
    file = File(Recorder("megatron", None, None), source.stem, decoding=decoding, exact=True)
    build(source, target, options, file, read)
    if left_out:
        options.note(f"{len(left_out)} lines of block mtp are left out: layers of multi-token prediction")
    return target


def _passes(source: Path, left_out: set[Line]) -> Iterator[Pass]:
    layers, size = list[int](), 0
    records: list[_Record] = []
    for record in _records(source, left_out):
        if records and (record.step != records[-1].step or record.layer <= records[-1].layer):
            yield _complete(records, layers)
            records, size = [], 0
        size += record.ids.size
        record.line.at_most("ids of one pass", size, MAX_REQUEST_IDS)
        records.append(record)
    if not records:
        raise Line(source.name, 1).refuse("content", "no routing of a decoder", f"lines with {one_of(_NEEDED)}")
    yield _complete(records, layers)


def _complete(records: list[_Record], layers: list[int]) -> Pass:
    """Check a pass against the layers of the first one, which are noted in ``layers``."""
    found, line = [record.layer for record in records], records[0].line
    layers += [] if layers else found
    if found != layers:
        odd = min(set(found) ^ set(layers))
        what = "missing" if odd in layers else "there"
        allowed = (
            "the layers of the first pass in each; activation recomputation writes layers again, and a file that was "
            "cut off ends within a pass: leave its last lines out, or take the requests before them with limit=N"
        )
        raise line.refuse(f"layer {odd} of the pass from here on (step {records[0].step})", what, allowed)
    for one, two in pairwise(records):
        if len(one.ids) != len(two.ids):
            raise two.line.refuse("num_tokens", len(two.ids), f"{len(one.ids)}, as in layer {one.layer} of this pass")
    return Pass(line, len(records[0].ids), {record.layer: record.ids for record in records})


def _records(source: Path, left_out: set[Line]) -> Iterator[_Record]:
    rank, step = None, 0
    for line, node in json_lines(source, 2**26, 2**20, 2**23):
        line.keys(node, _NEEDED, _MORE)
        if node.get("stage", "pre_dispatch") != "pre_dispatch":
            raise line.refuse("stage", node["stage"], "pre_dispatch")
        own = line.integer("rank", node.get("rank", 0), 0, _MAX_INT)
        if rank not in (None, own):
            raise line.refuse("rank", own, f"{rank}, as above: a file has the passes of one rank")
        rank = own
        if node.get("block", "decoder") not in ("decoder", "mtp"):
            raise line.refuse("block", node["block"], "decoder, mtp")
        if line.integer("step", node["step"], 0, _MAX_INT) < step:
            raise line.refuse("step", node["step"], f"at least {step}, the one before")
        step = node["step"]
        if node.get("block") == "mtp":
            left_out.add(line)
            continue
        layer = line.integer("layer", node["layer"], 0, MAX_LAYERS - 1)
        yield _Record(line, step, layer, _ids(line, node))


def _ids(line: Line, node: dict[str, Any]) -> Array:
    rows = line.integer("num_tokens", node["num_tokens"], 1, MAX_REQUEST_IDS)
    slots = line.integer("topk", node["topk"], 1, MAX_EXPERTS)
    top = line.items("top_indices", node["top_indices"], rows)
    if len(top) != rows:
        raise line.refuse("length of top_indices", len(top), f"{rows}, the num_tokens")
    for index, ids in enumerate(top):
        field = f"top_indices of token {index}"
        if len(line.ids(field, ids, slots, MAX_EXPERTS)) != slots:
            raise line.refuse(f"length of {field}", len(ids), f"{slots}, the topk")
    return np.array(top, np.int32)


IMPORTER = Importer(
    "megatron",
    import_trace,
    """\
router_trace_rankN.jsonl of Megatron Core (--moe-routing-trace-path): step,
block, layer, rank, num_tokens, topk, top_indices per line. Tokens of a pass
carry no request: serve one request at a time. Weights are not written: the
ids of a token stay in the order given.
""",
    {
        "mode": Annotated[
            Literal["inference", "training"],
            "inference: a pass of several tokens is a prompt, one of one token a decode step; training: every pass is"
            " a prompt of its own; without it inference",
        ],
        "chunk": Annotated[int, Between(2, 2**24), "prompts come in chunks of so many tokens, the last may be smaller"],
        "prompt_tokens": Annotated[
            int, Between(1, 2**24), "of each prompt: needed only where a last chunk is full or has one token"
        ],
        "n_experts": N_EXPERTS,
    },
)
