"""From the requests that an importer reads to a trace: what all importers have in common.

A file is read twice, one request in memory at a time. The first reading finds the layers that have routing, E and K,
and tells what it had to infer; the second one writes. Left out are the layers that ``without_layers`` names, and those
in which no token of the file has an expert: nothing is demanded there, and a budget must not be shared with them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path

import numpy as np

from traces.describe.repeats import Repeats, warning
from traces.format.layout import DECODE, MAX_EXPERTS, PREFILL, Array, Request, by_descending_weight
from traces.format.manifest import Prompts
from traces.importers import Options, assign_splits, named, spans
from traces.importers.arrivals import read_arrivals
from traces.importers.found import SURE, Blanks, checked
from traces.importers.found import File as File
from traces.importers.found import Found as Found
from traces.kit.conf import model_sizes
from traces.kit.errors import TraceError, refusal, shown
from traces.writing.writer import TraceWriter


@dataclass
class Survey:
    """What the first reading finds.

    ``started``: requests that begin with tokens in the KV cache. ``routed``, ``above_zero``: layers of the file in
    which any token has an expert, and another one than 0. ``absent``: rows without an expert in any layer.
    """

    requests: int = 0
    prompt_rows: int = 0
    prompt_passes: int = 0
    decode_rows: int = 0
    started: int = 0
    layers: int = 0
    largest: int = 0
    widest: int = 0
    routed: set[int] = field(default_factory=set)
    above_zero: set[int] = field(default_factory=set)
    absent: int = 0
    signals: tuple[str, ...] = ()
    repeats: Repeats = field(default_factory=Repeats)

    def add(self, request: Found) -> None:
        ids = request.expert_ids
        present = ids >= 0
        self.requests += 1
        self.prompt_rows += request.prefill
        self.prompt_passes += len(request.prompt_passes)
        self.decode_rows += request.decode
        self.started += request.start > 0
        self.layers = max(self.layers, ids.shape[1])
        self.largest = max(self.largest, int(ids.max(initial=0)))
        self.widest = max(self.widest, int(present.sum(axis=2).max(initial=0)))
        self.routed.update(np.flatnonzero(present.any(axis=(0, 2))).tolist())
        self.above_zero.update(np.flatnonzero((ids > 0).any(axis=(0, 2))).tolist())
        self.absent += int((~present).all(axis=(1, 2)).sum())
        self.signals = tuple(request.signals)
        self.repeats.add(ids, -1)


def build(source: Path, target: Path, options: Options, file: File, read: Callable[[], Iterator[Found]]) -> Path:
    """Write the requests that ``read()`` yields, each time from the first, as a trace in ``target``; returns it.

    Ids are put by descending weight where there are weights, and absent ones last. E is ``options.n_experts``, else
    what the file says, else the largest id plus one, rounded up to a multiple of 4. Raises TraceError with file, place
    and value.
    """
    survey, blanks, before = Survey(), Blanks(), _state(source)
    for request in _limited(source, options, file, read, blanks):
        survey.add(request)
    blanks.check(source.name, options.without_layers)
    kept = _kept(source, options, file, survey)
    shape = (int(kept.sum()), file.top_k or survey.widest)
    n_experts, priced_as = _price(options, file, survey, shape)
    sizes = None if file.expert_bytes is None else [file.expert_bytes[layer] for layer in np.flatnonzero(kept).tolist()]
    splits = assign_splits(survey.requests, options.split, options.seed)
    arrivals = read_arrivals(options.arrivals, survey.requests)
    _say(options, file, survey, shape, n_experts)
    signals = {name: shape if name == "expert_weights" else () for name in survey.signals}
    with TraceWriter(target, n_layers=shape[0], n_experts=n_experts, top_k=shape[1], signals=signals) as out:
        for number, request in enumerate(_limited(source, options, file, read, Blanks())):
            ids = request.expert_ids
            wider = ids.shape[2] > shape[1] and (ids >= 0).sum(axis=2).max() > shape[1]
            _refuse_change(source, before, number >= survey.requests or ids.shape[1] > len(kept) or bool(wider))
            prompt = request.start + request.prefill
            ends = accumulate(request.prompt_passes, initial=request.start)
            steps = [(PREFILL, end - begin, begin) for begin, end in pairwise(ends)]
            steps += [(DECODE, 1, prompt + index) for index in range(request.decode)]
            label = Request(
                request=number,
                prompt_tokens=prompt if request.prompt_tokens is None else request.prompt_tokens,
                output_tokens=request.decode + 1 if request.output_tokens is None else request.output_tokens,
                arrival_s=arrivals[number],
                split=splits[number],
                source=request.source or options.source or source.name,
            )
            out.add_request(label, steps=steps, **_arrays(request, kept, shape[1], out.absent))
        _refuse_change(source, before, number + 1 < survey.requests)
        decoding = {"mode": "unknown", **file.decoding}
        if options.phases == "decode":
            decoding["phases"] = "decode alone: prompts were left out"
        if not kept.all():
            decoding["layers"] = f"{spans(np.flatnonzero(kept).tolist())} of the {len(kept)} in the file"
        return out.close(
            name=options.model or file.model,
            recorder=file.recorder,
            decoding=decoding,
            recording="recorded",
            prompts=Prompts(options.source, options.licence),
            expert_bytes=sizes,
            dense_bytes=None if file.dense_bytes is None else _until_each(file.dense_bytes, kept),
            priced_as=priced_as,
        )


def _state(source: Path) -> tuple[int, ...] | None:
    """Return what changes when somebody writes to the file; None for a folder, in which the trace itself may come."""
    if not source.is_file():
        return None
    found = source.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _refuse_change(source: Path, before: tuple[int, ...] | None, misfit: bool = False) -> None:
    """Refuse what is not as the first reading saw it; ``misfit``: a request has no place in the trace it promised."""
    if misfit or _state(source) != before:
        raise refusal(source.name, "content", "changed while it was read", "a file that nobody writes to any more")


def _limited(
    source: Path, options: Options, file: File, read: Callable[[], Iterator[Found]], blanks: Blanks
) -> Iterator[Found]:
    """Yield the requests that are wanted, checked, the layers that are left out emptied."""
    empty = True
    for request in islice(read(), options.limit):
        empty = False
        # Where the file does not say how many layers it has, a request need not have them all.
        layers = request.expert_ids.shape[1]
        yield checked(request, ~np.isin(np.arange(layers), list(options.without_layers)), file, options, blanks)
    if empty:
        raise TraceError(f"{source.name}: content is nothing; allowed: at least one request")


def _kept(source: Path, options: Options, file: File, survey: Survey) -> Array:
    """Return which layers of the file are layers of the trace."""
    n_layers = file.n_layers or survey.layers
    for name, found, said in (("layers", survey.layers, n_layers), ("top-k", survey.widest, file.top_k)):
        if said and found > said:
            raise TraceError(f"{source.name}: {name} is {found}; allowed: at most {said}, as its head says")
    if unknown := sorted(layer for layer in options.without_layers if layer >= n_layers):
        allowed = f"0 to {n_layers - 1}, its layers"
        raise TraceError(f"{source.name}: without_layers names {shown(spans(unknown))}; allowed: {allowed}")
    kept = ~np.isin(np.arange(n_layers), list(options.without_layers))
    routed = np.isin(np.arange(n_layers), list(survey.routed))
    if not survey.routed:
        raise TraceError(f"{source.name}: no token has an expert; allowed: at least one with routing")
    silent = np.flatnonzero(kept & ~routed).tolist()
    if silent:
        where = f"{named(silent)} of the {n_layers} (counted from 0), where no token of the file has an expert"
        options.note(f"left out: {where}; without_layers={spans(silent)} states it")
    kept &= routed
    if file.expert_bytes is not None and not all(np.array(file.expert_bytes)[kept] > 0):
        layer = int(np.flatnonzero(kept & (np.array(file.expert_bytes) == 0))[0])
        raise refusal(source.name, f"expert_bytes of layer {layer}", 0, "more, since tokens have experts there")
    return kept


def _price(options: Options, file: File, survey: Survey, shape: tuple[int, int]) -> tuple[int, str | None]:
    """Return E, and the model of conf/model that the user names, if it has these sizes and the file has no prices."""
    n_experts = options.n_experts or file.n_experts or 0
    sizes = model_sizes(options.model) if options.model else None
    if sizes and not n_experts and sizes[0] == shape[0] and sizes[2] == shape[1] and survey.largest < sizes[1]:
        n_experts = sizes[1]
        options.note(f"{n_experts} experts per layer, as {options.model} has; n_experts=E states another number")
    elif not n_experts:
        # Lest the last experts were never chosen.
        n_experts = min(-(-(survey.largest + 1) // 4) * 4, MAX_EXPERTS)
        why = f"the largest id is {survey.largest}, rounded up to a multiple of 4"
        options.note(f"{n_experts} experts per layer: {why}; n_experts=E states it")
    found = (shape[0], n_experts, shape[1])
    if sizes and sizes != found:
        has, needs = (f"{layers} layers, {experts} experts, top-{top_k}" for layers, experts, top_k in (found, sizes))
        options.note(f"not priced as {options.model}, which has {needs}: the file has {has}")
    same = sizes == found and file.expert_bytes is None
    return n_experts, options.model if same else None


def _say(options: Options, file: File, survey: Survey, shape: tuple[int, int], n_experts: int) -> None:
    inferred = [f"layers {shape[0]}"] * (not file.n_layers) + [f"top-k {shape[1]}"] * (not file.top_k)
    if inferred:
        options.note(f"{', '.join(inferred)}: what the tokens of the file have")
    one_each = survey.prompt_passes <= survey.requests
    passes = "one pass per request" if one_each else f"in {survey.prompt_passes:,} passes"
    prompts = f"{_counted(survey.prompt_rows, 'token')} of prompts, {passes}" if survey.prompt_rows else "no prompts"
    options.note(
        f"{_counted(survey.requests, 'request')}: {prompts}; {_counted(survey.decode_rows, 'decode pass')}; "
        f"rows that repeat the one before: {survey.repeats}"
    )
    if survey.started:
        told = _counted(survey.started, "request")
        options.note(f"tokens in the KV cache before the first row: {told}; they are context")
    if survey.absent:
        options.note(f"{_counted(survey.absent, 'token')} without an expert in any layer: absent entries")
    zeros = survey.routed - survey.above_zero
    # Of a top-1 router, and chosen by too many tokens for chance.
    if zeros and survey.widest == 1 and n_experts > 1 and survey.prompt_rows + survey.decode_rows >= SURE:
        hint = f"if no expert is there at all, without_layers={spans(zeros)} leaves it out"
        options.note(f"{named(zeros)} (counted from 0): every token has expert 0; {hint}")
    if survey.repeats.suspicious:
        options.note(f"warning: {warning(survey.repeats)}")


def _until_each(nbytes: Sequence[int], kept: Array) -> list[int]:
    """Of each layer that stays, its bytes and those of the layers left out before it; the last has those after it."""
    ends = np.flatnonzero(kept) + 1
    ends[-1] = len(nbytes)
    return [sum(nbytes[begin:end]) for begin, end in pairwise([0, *ends.tolist()])]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def _arrays(request: Found, kept: Array, top_k: int, absent: int) -> dict[str, Array]:
    """Return the arrays of a request as the trace has them."""
    ids, weights = request.expert_ids, request.signals.get("expert_weights")
    arrays: dict[str, Array] = {name: array for name, array in request.signals.items() if name != "expert_weights"}
    if weights is not None:
        # Below every real weight, so that absent entries come last.
        ids, weights = by_descending_weight(ids, np.where(ids < 0, -1, weights))
        arrays["expert_weights"] = np.maximum(_shaped(weights, kept, top_k, 0), 0)
    elif (ids < 0).any():
        ids = np.take_along_axis(ids, np.argsort(ids < 0, axis=-1, kind="stable"), axis=-1)
    ids = _shaped(ids, kept, top_k, -1)
    arrays["expert_ids"] = np.where(ids < 0, absent, ids) if ids.dtype.kind == "i" else ids
    return arrays


def _shaped(array: Array, kept: Array, top_k: int, fill: int) -> Array:
    """Bring [n, L, K], absent entries last, to the layers that stay and to ``top_k`` slots."""
    lacking = (len(kept) - array.shape[1], max(0, top_k - array.shape[2]))
    if any(lacking):
        kind = np.result_type(array.dtype, np.int8) if fill < 0 else array.dtype
        array = np.pad(array.astype(kind), ((0, 0), (0, lacking[0]), (0, lacking[1])), constant_values=fill)
    shaped: Array = array[:, kept, :top_k]
    return shaped
