"""The tables of a measured machine, as ``python -m traces calibrate`` writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Annotated, Any

from traces.calibrate.tables import noisy, spreads
from traces.kit.errors import UserError, allowing, one_of
from traces.kit.readers import (
    Count,
    Params,
    Reader,
    Share,
    Text,
    by_name,
    each,
    nullable,
    number,
    record,
    refusal,
    text,
    whole,
)

COLUMNS = ("ns", "median_ns", "q1_ns", "q3_ns", "count")


@dataclass(frozen=True)
class Points:
    """Durations at measured points. `ns`: the medians, pooled where they fell though the amount rose."""

    axes: dict[str, tuple[int, ...]]  # one value per point and axis
    ns: tuple[int, ...]
    median_ns: tuple[int, ...]
    q1_ns: tuple[int, ...]
    q3_ns: tuple[int, ...]
    count: tuple[int, ...]  # samples


def points(*axes: str) -> Reader:
    """Read a mapping of equally long lists: the axes and the columns."""
    least = {"context": 0}

    def read(value: Any, where: str) -> Points:
        keys = (*axes, *COLUMNS)
        if not isinstance(value, Mapping):
            raise refusal(value, where, f"a mapping with the keys {one_of(keys)}")
        for key in value:
            if key not in keys:
                raise UserError(f"{where}.{key}: no such key; {allowing(key, keys)}")
        lists = {}
        for key in keys:
            if key not in value:
                raise UserError(f"{where}.{key} is missing; required: {one_of(keys)}")
            lists[key] = each(whole(least.get(key, 1)))(value[key], f"{where}.{key}")
            if not lists[key] or len(lists[key]) != len(lists[axes[0]]):
                allowed = "at least one value" if key == axes[0] else f"as many values as {where}.{axes[0]}"
                raise refusal(len(lists[key]), f"length of {where}.{key}", allowed)
        for i, (low, middle, high) in enumerate(zip(lists["q1_ns"], lists["median_ns"], lists["q3_ns"], strict=True)):
            if not low <= middle <= high:
                raise refusal(middle, f"{where}.median_ns[{i}]", f"between the quartiles, {low} to {high}")
        return Points({axis: lists[axis] for axis in axes}, *(lists[column] for column in COLUMNS))

    return read


def curve(axis: str, begins: int | None = None) -> Reader:
    """Points whose axis rises (from ``begins``) and whose durations do not fall."""

    def read(value: Any, where: str) -> Points:
        found: Points = points(axis)(value, where)
        _not_falling(found.axes[axis], f"{where}.{axis}", strictly=True)
        _not_falling(found.ns, f"{where}.ns")
        if begins not in (None, found.axes[axis][0]):
            raise refusal(found.axes[axis][0], f"{where}.{axis}[0]", str(begins))
        return found

    return read


def grid(value: Any, where: str) -> Points:
    """Points at every pair of tokens and context, in that order, from one token without context."""
    found: Points = points("tokens", "context")(value, where)
    tokens, contexts = (sorted(set(found.axes[axis])) for axis in ("tokens", "context"))
    if list(zip(found.axes["tokens"], found.axes["context"], strict=True)) != list(product(tokens, contexts)):
        raise UserError(f"{where}: allowed: every pair of tokens and context once, sorted")
    if (tokens[0], contexts[0]) != (1, 0):
        raise refusal((tokens[0], contexts[0]), f"first tokens and context of {where}", "(1, 0)")
    for i in range(len(tokens)):
        _not_falling(found.ns[i * len(contexts) : (i + 1) * len(contexts)], f"{where}.ns at {tokens[i]} tokens")
    for j in range(len(contexts)):
        _not_falling(found.ns[j :: len(contexts)], f"{where}.ns at context {contexts[j]}")
    return found


def _not_falling(values: tuple[int, ...], where: str, *, strictly: bool = False) -> None:
    for i, (a, b) in enumerate(pairwise(values)):
        if b < a + strictly:
            raise refusal(b, f"{where}[{i + 1}]", f"{'above' if strictly else 'at least'} the value before it, {a}")


@dataclass(frozen=True)
class Shape:
    """What must equal the model's for its tables to apply; parameters as in ``conf/model``."""

    hidden: Count
    expert_width: Count
    experts: Count
    top_k: Count
    expert_params: Count
    attention_params: Params
    router_params: Params
    shared_expert_params: Params


@dataclass(frozen=True)
class Pair:
    """Copies of one expert to the GPU, and one expert on one token on so many threads of the host: each alone, and
    beside the other."""

    expert_bytes: Count
    copy: Annotated[Points, points("threads")]
    cpu: Annotated[Points, points("threads")]
    copy_with_cpu: Annotated[Points, points("threads")]
    cpu_with_copy: Annotated[Points, points("threads")]


def beside_each_other(value: Any, where: str) -> Pair:
    """Four tables, by the same numbers of threads."""
    found: Pair = record(Pair)(value, where)
    _not_falling(found.copy.axes["threads"], f"{where}.copy.threads", strictly=True)
    for key in ("cpu", "copy_with_cpu", "cpu_with_copy"):
        threads = getattr(found, key).axes["threads"]
        if threads != found.copy.axes["threads"]:
            raise refusal(threads, f"{where}.{key}.threads", f"{found.copy.axes['threads']}, as in {where}.copy")
    return found


@dataclass(frozen=True)
class MeasuredModel:
    """One layer of a model of this shape, with random weights."""

    shape: Annotated[Shape, record(Shape)]
    dtype: Text  # of all weights
    dense: Annotated[Points, grid]  # attention, norms, router, shared experts; one request
    expert: Annotated[Points, curve("tokens", 1)]  # one expert by its tokens
    grouped: Annotated[Points, curve("tokens", 1)]  # top-K experts of so many tokens, in the library's grouped kernel
    cpu_expert: Annotated[Points, points("threads", "tokens")]
    launch_ns: Params  # what an expert takes longer when nothing runs ahead of the launches
    layer_overhead_ns: Params  # what a layer of the library's own loop takes longer than its device work
    pair: Annotated[Pair | None, nullable(beside_each_other)] = None  # null in profiles of before it was measured


@dataclass(frozen=True)
class Noise:
    """How far the samples were apart, by table; a model's is NAME.expert and so on."""

    threshold: Share  # quartiles further apart than this share of the median: a noisy point
    spread: Annotated[dict[str, Fraction], by_name(number(zero=True))]  # the widest
    noisy: Annotated[dict[str, str] | None, nullable(by_name(text()))]  # tables with noisy points, and how many


Copies = Annotated[Points, curve("bytes")]


@dataclass(frozen=True)
class Measured:
    """Copy tables of the machine, and tables of the models whose shape was measured on it."""

    date: Text  # UTC
    copies: Text  # what a copy is here: over a link, or within memory
    machine: Annotated[dict[str, str], by_name(text())]
    derived: Annotated[dict[str, str], by_name(text())]  # how the constants that `sources` does not name were made
    copy_h2d_pinned: Copies  # back to back, per copy
    copy_h2d_pageable: Copies
    copy_d2h_pinned: Copies
    copy_d2h_pageable: Copies
    copy_h2d_call: Copies  # one call and the wait for its end
    copy_h2d_with_d2h: Copies  # the other direction busy
    copy_d2h_with_h2d: Copies
    copy_h2d_with_compute: Copies
    copy_h2d_with_cpu_reads: Copies
    models: Annotated[dict[str, MeasuredModel] | None, nullable(by_name(record(MeasuredModel)))]
    noise: Annotated[Noise | None, nullable(record(Noise))] = None  # null in profiles of before it was written

    def noisy(self) -> dict[str, str]:
        """The tables with noisy points, and how many: of the samples themselves, which old profiles have, too."""
        found = _tables("", self)
        for name, model in (self.models or {}).items():
            found |= _tables(f"{name}.", model)
        return noisy({name: spreads(it.median_ns, it.q1_ns, it.q3_ns) for name, it in found.items()})


def _tables(prefix: str, part: Measured | MeasuredModel | Pair) -> dict[str, Points]:
    found = dict[str, Points]()
    for key, it in vars(part).items():
        if isinstance(it, Points):
            found[prefix + key] = it
        elif isinstance(it, Pair):
            found |= _tables(f"{prefix}{key}.", it)
    return found
