"""A request as its file has it: what an importer hands over, the cells that it is put together from, its checks.

-1 is an absent entry. Rows of the prompt that hold nothing but -1, or nothing but zeros, at its beginning are a prefix
that the server had cached: they are context, and the prefill starts after them. Zeros elsewhere are no routing either
(with top-2 and more, no token chooses expert 0 twice) and are named as what they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.format.manifest import Recorder
from traces.importers import Options, named, spans
from traces.importers.files import check_request_size
from traces.kit.errors import TraceError, refusal

MAX_WEIGHT = 65504
"""The largest float16."""
SURE = 8
"""Zeros of a top-1 router's rows that cannot all be expert 0 by chance."""


@dataclass(frozen=True)
class Found:
    """One request as its file has it: n rows, one per token, of L layers and K slots.

    ``where``: its place in the file, for errors. ``expert_ids`` [n, L, K]: integers, -1 where absent. ``prefill``: how
    many of the rows, the first ones, are the prompt's; each of the others is a decode pass. ``chunks``: rows of each
    pass of the prompt, where it was not one. ``start``: tokens in the KV cache before the first row.
    ``prompt_tokens``: where it is more than start + prefill.
    ``output_tokens``: where it is not one more than the decode passes (the prompt's pass yields the first token).
    ``signals``: "expert_weights" [n, L, K], "token_ids" [n]; the same ones in every request. ``first_row``: the number
    of the first row in the file, for errors. ``source``: of its prompt, where the file says it.
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
        return list(self.chunks) if self.chunks else [self.prefill] * (self.prefill > 0)

    @property
    def decode(self) -> int:
        return len(self.expert_ids) - self.prefill


@dataclass(frozen=True)
class File:
    """What a file says as a whole; None: nothing, and it is found in the requests.

    ``expert_bytes``: of one expert, by layer of the file; 0 for a layer without experts. ``dense_bytes``: all other
    weights that a pass reads, by layer of the file. ``ids``: what the file calls
    the experts of a token, for errors. ``padded``: rows of zeros stand for "not recorded". ``exact``: they never do.
    """

    recorder: Recorder
    model: str
    n_layers: int | None = None
    n_experts: int | None = None
    top_k: int | None = None
    expert_bytes: Sequence[int] | None = None
    dense_bytes: Sequence[int] | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    ids: str = "expert ids"
    padded: bool = False
    exact: bool = False


@dataclass(eq=False)
class Cells:
    """The cells seen so far, flat: lists of lists would take ten times the memory."""

    places: array[int] = field(default_factory=lambda: array("i"))
    """Row, layer and number of ids of each cell."""
    ids: array[int] = field(default_factory=lambda: array("i"))
    weights: array[float] = field(default_factory=lambda: array("f"))

    def add(self, row: int, layer: int, ids: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Append a cell; all have weights, or none has."""
        self.places.extend((row, layer, len(ids)))
        self.ids.extend(ids)
        self.weights.extend(weights or ())

    def arrays(self, where: str) -> tuple[Array, dict[str, Array]]:
        """Return the ids [rows, layers, slots], -1 where there are none, and as a signal the weights, if there are."""
        rows, layers, sizes = np.frombuffer(self.places, np.int32).reshape(-1, 3).T
        shape = (int(rows.max()) + 1, int(layers.max()) + 1, int(sizes.max()))
        check_request_size(where, *shape)
        slots = np.arange(len(self.ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = (np.repeat(rows, sizes), np.repeat(layers, sizes), slots)
        ids = np.full(shape, -1, np.int32)
        ids[place] = self.ids
        if not self.weights:
            return ids, {}
        weights = np.zeros(shape, np.float32)
        weights[place] = self.weights
        return ids, {"expert_weights": weights}


@dataclass
class Blanks:
    """Layers that some request has zeros alone in (the place of the first), and layers that any has routing in."""

    zeros: dict[int, str] = field(default_factory=dict)
    routed: set[int] = field(default_factory=set)

    def check(self, file: str, without: frozenset[int]) -> None:
        """Refuse layers of zeros, all of them in one error; ``without``: what the user leaves out already."""
        dense = [layer for layer in self.zeros if layer not in self.routed]
        if dense:
            raise TraceError(
                f"{file}: {named(dense)} (counted from 0): zeros alone, which is how servers write layers "
                f"without experts; allowed: without_layers={spans({*dense, *without})}, which leaves them out"
            )
        for layer, where in self.zeros.items():
            raise refusal(where, f"layer {layer}", "zeros alone", "routing, as in other requests of the file")


def checked(request: Found, kept: Array, file: File, options: Options, blanks: Blanks) -> Found:
    """Return the request with what stands for "not recorded" taken out of it; ``kept`` [L]: the layers that stay.

    Raises TraceError with the place of what is no routing.
    """
    check_request_size(request.where, *request.expert_ids.shape)
    if options.phases == "decode":
        if not request.decode:
            raise refusal(request.where, "decode passes", 0, "at least one in each request with phases=decode")
        request = _from_row(request, request.prefill)
    if not kept.any():
        raise TraceError(f"{request.where}: without_layers leaves out all {len(kept)} layers; allowed: fewer")
    _check_dtype(request, kept, file, options)
    if not kept.all():
        request = replace(request, expert_ids=np.where(kept[:, None], request.expert_ids.astype(np.int32), -1))
    ids, most = request.expert_ids, (options.n_experts or file.n_experts or MAX_EXPERTS) - 1
    _refuse(request, file.ids, (ids < -1) | (ids > most), ids, f"0 to {most}, or -1 where absent")
    request = _without_zeros(request, kept, file, blanks)
    request = _from_row(request, _leading((request.expert_ids[: request.prefill] < 0).all(axis=(1, 2))))
    if not len(request.expert_ids):
        raise refusal(request.where, "routing", "missing from every row", "at least one row with experts")
    _check_distinct(request, file)
    if (weights := request.signals.get("expert_weights")) is not None:
        bad = ~((weights >= 0) & (weights <= MAX_WEIGHT))
        _refuse(request, "weights", bad, weights, "finite numbers, at least 0, that float16 holds")
    return request


def _leading(flags: Any) -> int:
    return int(np.argmin(np.append(flags, False)))


def _refuse(request: Found, name: str, bad: Array, values: Array, allowed: str) -> None:
    """Refuse the first of ``values`` [n, L, K] that is ``bad``: [n, L, K], or [n, L] for all slots of a layer."""
    if bad.any():
        place = tuple(np.argwhere(bad)[0].tolist())
        row, *rest = place
        where = ", ".join(f"{word} {at}" for word, at in zip(("layer", "slot"), rest, strict=False))
        found = values[place].tolist() if values[place].ndim else values[place]
        raise refusal(request.where, f"{name} of token row {request.first_row + row}, {where}", found, allowed)


def _from_row(request: Found, rows: int) -> Found:
    """Make the first ``rows`` rows, which are of the prompt, context."""
    if not rows:
        return request
    ends = [end - rows for end in accumulate(request.prompt_passes) if end > rows]
    return replace(
        request,
        expert_ids=request.expert_ids[rows:],
        prefill=request.prefill - rows,
        chunks=[end - begin for begin, end in pairwise([0, *ends])],
        start=request.start + rows,
        first_row=request.first_row + rows,
        signals={name: array[rows:] for name, array in request.signals.items()},
    )


def _check_dtype(request: Found, kept: Array, file: File, options: Options) -> None:
    """Refuse a dtype that ends below E, and -1 that became the largest value of an unsigned one."""
    ids, largest = request.expert_ids, int(np.iinfo(request.expert_ids.dtype).max)
    if ids.dtype.itemsize == 1 and options.n_experts and options.n_experts > largest + 1:
        found, allowed = f"{ids.dtype}, which ends at {largest}", f"ids to {options.n_experts - 1}: 16 bits or more"
        raise refusal(request.where, f"dtype of {file.ids}", found, allowed)
    if ids.dtype.kind != "u":
        return
    filled = (ids == largest).all(axis=2) & kept
    if ids.shape[2] == 1:
        # It may be an expert. Rows and layers of it alone are none, unless E was stated to go so far.
        rows, layers = filled[:, kept].all(axis=1), filled.all(axis=0)
        filled = filled & (rows[:, None] | layers)
        if filled.sum() < SURE or (options.n_experts or file.n_experts or 0) > largest:
            return
    allowed = f"experts; {largest} in every slot is -1 in {ids.dtype}: write it into a signed dtype, such as int16"
    _refuse(request, file.ids, filled, ids, allowed)


def _without_zeros(request: Found, kept: Array, file: File, blanks: Blanks) -> Found:
    """Take out layers and rows of zeros."""
    if file.exact:
        return request
    ids, several = request.expert_ids, request.expert_ids.shape[2] > 1
    zero = (ids == 0).all(axis=2)
    if not several and not file.padded:
        zero[:] = False
    # A cached prefix may be -1 in the layers without experts, too.
    nothing = (zero | (ids < 0).all(axis=2)).all(axis=0) & zero.any(axis=0)
    whole = nothing & kept if several else np.zeros(len(kept), bool)
    if several and (whole | ~kept).all():
        raise refusal(request.where, file.ids, "zeros alone", "the experts of tokens: this request was not recorded")
    blanks.routed.update(np.flatnonzero((ids >= 0).any(axis=(0, 2)) & ~whole).tolist())
    if whole.any():
        for layer in np.flatnonzero(whole).tolist():
            blanks.zeros.setdefault(layer, request.where)
        request = replace(request, expert_ids=np.where(whole[:, None], -1, ids.astype(np.int32)))
    leading = _leading(zero[: request.prefill, kept & ~whole].all(axis=1))
    sure = several or leading * int(kept.sum()) >= SURE
    if leading and sure and leading < request.prefill:
        return _from_row(request, leading)
    # A top-1 router may choose expert 0 all the time: then it does in decode passes, too.
    decoded = zero[request.prefill :, kept & ~whole]
    if leading and sure and (several or not decoded.size or decoded.mean() < 0.5):
        found = f"zeros alone in all {leading} rows: not recorded"
        allowed = "the experts of its tokens; phases=decode imports the decode passes, whose context is known"
        raise refusal(request.where, f"{file.ids} of the prompt", found, allowed)
    return request


def _check_distinct(request: Found, file: File) -> None:
    ids = request.expert_ids
    ordered = np.sort(ids, axis=-1)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(axis=-1)
    allowed = "an expert at most once per token and layer"
    if not ids[twice][:1].any():
        allowed += "; zeros stand for what was not recorded, -1 would be read as absent"
    elif ids.dtype.itemsize == 1 and file.n_experts is None:
        allowed += f"; ids above {np.iinfo(ids.dtype).max} do not fit into {ids.dtype} and come back as others"
    _refuse(request, file.ids, twice, ids, allowed)
