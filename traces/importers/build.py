"""From the requests that an importer reads to a trace: what all importers have in common.

A file is read twice, one request in memory at a time. The first reading finds the layers that have routing, E and K,
and tells what it had to infer; the second one writes. Left out are the layers that ``without_layers`` names, and those
in which no token of the file has an expert: nothing is demanded there, and a budget must not be shared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import TraceError
from traces.format import DECODE, MAX_EXPERTS, PREFILL, Array, Request, by_descending_weight, refusal
from traces.importers import Options, assign_splits
from traces.importers.arrivals import read_arrivals
from traces.importers.files import check_request_size, round_experts
from traces.importers.layers import kept_layers, spans
from traces.manifest import Prompts, Recorder
from traces.repeats import Repeats
from traces.writer import TraceWriter

MAX_WEIGHT = 65504
"""The largest float16."""


@dataclass(frozen=True)
class Found:
    """One request as its file has it: n rows, one per token, of L layers and K slots.

    ``where``: its place in the file, for errors. ``expert_ids`` [n, L, K]: integers, -1 where absent. ``prefill``: how
    many of the rows, the first ones, are the prompt's; each of the others is a decode pass. ``chunks``: rows of each
    pass of the prompt, where it was not one. ``start``: tokens in the KV cache before the first row.
    ``prompt_tokens``: where it is more than start + prefill. ``output_tokens``: where it is not one more than the
    decode passes (the prompt's pass yields the first token). ``signals``: "expert_weights" [n, L, K], "token_ids" [n];
    the same ones in every request. ``first_row``: the number of the first row in the file, for errors. ``source``: of
    its prompt, where the file says it.
    """

    where: str
    expert_ids: Array
    prefill: int
    start: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    signals: Mapping[str, Array] = field(default_factory=dict)
    first_row: int = 0
    source: str | None = None
    chunks: Sequence[int] = ()

    @property
    def prompt_passes(self) -> list[int]:
        """The rows of each pass of the prompt."""
        return list(self.chunks) or [self.prefill] * (self.prefill > 0)

    @property
    def decode(self) -> int:
        """How many decode passes it has."""
        return len(self.expert_ids) - self.prefill


@dataclass(frozen=True)
class File:
    """What a file says as a whole; None: nothing, and it is found in the requests.

    ``expert_bytes``: of one expert, by layer of the file; 0 for a layer without experts. ``ids``: what the file calls
    the experts of a token, for errors. ``padded``: rows of zeros stand for "not recorded".
    """

    recorder: Recorder
    model: str
    n_layers: int | None = None
    n_experts: int | None = None
    top_k: int | None = None
    expert_bytes: Sequence[int] | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    ids: str = "expert ids"
    padded: bool = False


@dataclass
class Survey:
    """What the first reading finds."""

    requests: int = 0
    prompt_rows: int = 0
    prompt_passes: int = 0
    decode_rows: int = 0
    started: int = 0
    """Requests that begin with tokens in the KV cache."""
    largest: int = 0
    widest: int = 0
    routed: Array = field(default_factory=lambda: np.zeros(0, bool))
    """Per layer of the file: whether any token has an expert there."""
    signals: tuple[str, ...] = ()
    repeats: Repeats = field(default_factory=Repeats)


def build(
    source: Path, target: Path, options: Options, file: File, read: Callable[[], Iterator[Found]], *, say: bool = True
) -> Path:
    """Write the requests that ``read()`` yields, each time from the first, as a trace in ``target``; returns it.

    Ids are put by descending weight where there are weights, and absent ones last. E is ``options.n_experts``, else
    what the file says, else the largest id plus one, rounded up to a multiple of 4. Raises TraceError with file, place
    and value.
    """
    survey = Survey()
    for request in _limited(source, options, file, read):
        _look(request, survey)
    kept = _kept(source, options, file, survey)
    n_experts = options.n_experts or file.n_experts or round_experts(survey.largest)
    top_k = file.top_k or survey.widest
    sizes = None if file.expert_bytes is None else [file.expert_bytes[layer] for layer in np.flatnonzero(kept).tolist()]
    splits = assign_splits(survey.requests, options.split, options.seed)
    arrivals = read_arrivals(options.arrivals, survey.requests)
    if say:
        _say(options, file, survey, kept, n_experts, top_k)
    shape = (int(kept.sum()), top_k)
    shapes = {"expert_weights": shape, "token_ids": ()}
    signals = {name: shapes[name] for name in survey.signals}
    with TraceWriter(target, n_layers=shape[0], n_experts=n_experts, top_k=top_k, signals=signals) as out:
        for number, request in enumerate(_limited(source, options, file, read)):
            prompt = request.start + request.prefill
            ends = [request.start, *(request.start + np.cumsum(request.prompt_passes)).tolist()]
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
            out.add_request(label, steps=steps, **_arrays(request, kept, top_k, out.absent))
        decoding = {"mode": "unknown", **file.decoding}
        if not kept.all():
            decoding["layers"] = f"{spans(np.flatnonzero(kept).tolist())} of the {len(kept)} in the file"
        return out.close(
            name=options.model or file.model,
            recorder=file.recorder,
            decoding=decoding,
            recording="recorded",
            prompts=Prompts(options.source, options.licence),
            expert_bytes=sizes,
        )


def _limited(source: Path, options: Options, file: File, read: Callable[[], Iterator[Found]]) -> Iterator[Found]:
    """Yield the requests that are wanted, checked, the layers that are left out emptied."""
    empty = True
    for request in islice(read(), options.limit):
        empty = False
        layers = np.asarray(request.expert_ids).shape[1]
        # Where the file does not say how many layers it has, no request need have them all.
        outside = file.n_layers is None and options.without_layers and max(options.without_layers) >= layers
        known = {layer for layer in options.without_layers if layer < layers} if outside else options.without_layers
        kept = kept_layers(source.name, layers, frozenset(known)) if known else np.ones(layers, bool)
        yield _checked(request, kept, file, options)
    if empty:
        raise TraceError(f"{source.name}: content is nothing; allowed: at least one request")


def _checked(request: Found, kept: Array, file: File, options: Options) -> Found:
    ids = request.expert_ids
    check_request_size(request.where, *ids.shape)
    if not kept.all():
        ids = np.where(kept[:, None], ids.astype(np.int32), -1)
    most = (options.n_experts or file.n_experts or MAX_EXPERTS) - 1
    bad = (ids < -1) | (ids > most)
    if bad.any():
        row, layer, slot = np.argwhere(bad)[0]
        where = f"{file.ids} of token row {request.first_row + row}, layer {layer}, slot {slot}"
        raise refusal(request.where, where, ids[row, layer, slot], f"0 to {most}, or -1 where absent")
    ordered = np.sort(ids, axis=-1)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(axis=-1)
    if twice.any():
        row, layer = np.argwhere(twice)[0]
        where = f"{file.ids} of token row {request.first_row + row}, layer {layer}"
        allowed = "distinct ids; without_layers=0,2,4-6 leaves out layers without experts"
        raise refusal(request.where, where, ids[row, layer].tolist(), allowed)
    weights = request.signals.get("expert_weights")
    if weights is not None and not ((weights >= 0) & (weights <= MAX_WEIGHT)).all():
        row, layer, slot = np.argwhere(~((weights >= 0) & (weights <= MAX_WEIGHT)))[0]
        where = f"weights of token row {request.first_row + row}, layer {layer}, slot {slot}"
        raise refusal(request.where, where, weights[row, layer, slot], "finite numbers, at least 0, that float16 holds")
    return replace(request, expert_ids=ids)


def _look(request: Found, survey: Survey) -> None:
    ids = request.expert_ids
    present = ids >= 0
    survey.requests += 1
    survey.prompt_rows += request.prefill
    survey.prompt_passes += len(request.prompt_passes)
    survey.decode_rows += request.decode
    survey.started += request.start > 0
    survey.largest = max(survey.largest, int(ids.max(initial=0)))
    survey.widest = max(survey.widest, int(present.sum(axis=2).max(initial=0)))
    routed: Array = present.any(axis=(0, 2))
    size = max(len(routed), len(survey.routed))
    survey.routed = np.pad(survey.routed, (0, size - len(survey.routed))) | np.pad(routed, (0, size - len(routed)))
    survey.signals = tuple(request.signals)
    survey.repeats.add(ids, -1)


def _kept(source: Path, options: Options, file: File, survey: Survey) -> Array:
    """Return which layers of the file are layers of the trace."""
    n_layers = file.n_layers or len(survey.routed)
    for name, found, said in (("layers", len(survey.routed), n_layers), ("top-k", survey.widest, file.top_k)):
        if said and found > said:
            raise TraceError(f"{source.name}: {name} is {found}; allowed: at most {said}, as its head says")
    kept = kept_layers(source.name, n_layers, options.without_layers)
    routed = np.pad(survey.routed, (0, n_layers - len(survey.routed)))
    if not routed.any():
        raise TraceError(f"{source.name}: no token has an expert; allowed: at least one with routing")
    silent = spans(np.flatnonzero(kept & ~routed).tolist())
    if silent:
        options.note(
            f"layers {silent} of {n_layers} (counted from 0) are left out: no token in the file has an expert there; "
            f"without_layers={silent} states it"
        )
    kept &= routed
    if file.expert_bytes is not None and not all(np.array(file.expert_bytes)[kept] > 0):
        layer = int(np.flatnonzero(kept & (np.array(file.expert_bytes) == 0))[0])
        raise refusal(source.name, f"expert_bytes of layer {layer}", 0, "more, since tokens have experts there")
    return kept


def _say(options: Options, file: File, survey: Survey, kept: Array, n_experts: int, top_k: int) -> None:
    """Tell what was inferred."""
    if not options.n_experts and not file.n_experts:
        options.note(
            f"{n_experts} experts per layer: the largest id is {survey.largest}, rounded up to a multiple of 4; "
            "n_experts=E states it"
        )
    found = [
        f"{name} {value}"
        for name, value, said in (("layers", int(kept.sum()), file.n_layers), ("top-k", top_k, file.top_k))
        if not said
    ]
    if found:
        options.note(f"{', '.join(found)}: as many as the tokens of the file have")
    one_each = survey.prompt_passes <= survey.requests
    passes = "one pass per request" if one_each else f"in {survey.prompt_passes:,} passes"
    prompts = f"{survey.prompt_rows:,} tokens of prompts, {passes}" if survey.prompt_rows else "no prompts"
    options.note(f"{survey.requests:,} requests: {prompts}; {survey.decode_rows:,} decode passes")
    if survey.started:
        options.note(f"{survey.started:,} of them begin with tokens in the KV cache, which have no routing here")


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
    n, layers, slots = array.shape
    if layers < len(kept) or slots < top_k:
        kind = np.result_type(array.dtype, np.int8) if fill < 0 else array.dtype
        padded = np.full((n, len(kept), max(slots, top_k)), fill, kind)
        padded[:, :layers, :slots] = array
        array = padded
    shaped: Array = array[:, kept, :top_k]
    return shaped
