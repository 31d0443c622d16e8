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
none. The others are absent there. A file that ends in the middle of an ubatch gives what is whole, and says so. Weights
are not written: the ids of a token stay in the order given.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

from traces.format.layout import MAX_EXPERTS
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, build
from traces.importers.counts import are_counts_in
from traces.importers.files import Line, text_lines
from traces.importers.llama_ubatches import Group, passes
from traces.importers.passes import MAX_LAYERS, Turns
from traces.kit.errors import TraceError, UserError
from traces.kit.words import Between

_HEAD = "layer,expert"
_ROW = re.compile(rb"(\d{1,5}),(\d{1,5})")
_WIDE_ROW = re.compile(rb"(-?\d{1,9}),(\d{1,5})((?:,\d{1,5})+)")
_MAX_LINE = 2**16


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the file ``source``, which is read three times: for its layers, and by build.

    UserError where top_k or ubatch are needed and not given.
    """
    wide, top_k = _is_wide(source), options.own.get("top_k")
    read, turns = _reading(source, options, wide)
    layers: set[int] = set()
    prompts = False
    try:
        for group in read():
            layers.add(group.layer)
            prompts = prompts or not wide or (group.position or 0) < 0
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
    said = set[int]()

    def cut(line: Line) -> None:
        if line.number not in said:  # the file is read twice
            where = f"the rows from line {line.number} on"
            options.note(f"left out: {where}, since the file ends in the middle of an ubatch")
        said.add(line.number)

    return build(source, target, options, file, lambda: turns.requests(passes(source, read(), sorted(layers), cut)))


def _is_wide(source: Path) -> bool:
    for line, raw in text_lines(source, "CSV", _MAX_LINE):
        if raw == _HEAD.encode():
            return False
        if _WIDE_ROW.fullmatch(raw):
            return True
        if are_counts_in(raw.decode("latin-1")):
            raise line.refuse_counts()
        raise line.refuse("content", raw.decode("latin-1"), f"the header {_HEAD}, or rows pos,layer,id0,id1,...")
    raise Line(source.name, 1).refuse("content", "nothing", f"the header {_HEAD}, or rows pos,layer,id0,id1,...")


def _reading(source: Path, options: Options, wide: bool) -> tuple[Callable[[], Iterator[Group]], Turns]:
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


def _groups(source: Path, top_k: int) -> Iterator[Group]:
    """Yield the groups of ``layer,expert``, each of whole tokens."""
    group: Group | None = None
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
            group = group or Group(line, line.integer("layer", int(match[1]), 0, MAX_LAYERS - 1), slots=top_k)
            group.add(line, [line.integer("expert", int(match[2]), 0, MAX_EXPERTS - 1)])
            empty = False
    if empty:
        raise Line(source.name, 1).refuse("content", "no routing", f"rows of {_HEAD}")
    if group is not None:
        yield group


def _wide_groups(source: Path) -> Iterator[Group]:
    """Yield the groups of ``pos,layer,id0,...``: rows of one layer whose negative positions ascend by one."""
    group: Group | None = None
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
            group = Group(line, layer, begins=decoding and position < 0, slots=len(ids))
            decoding = position >= 0
        if len(ids) != group.slots:
            raise line.refuse("number of ids", len(ids), f"{group.slots}, as above in this layer")
        group.add(line, ids)
        group.position = position
    assert group is not None
    yield group


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
