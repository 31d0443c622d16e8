"""Import the arrays of a ``.npz`` archive, read as streams: memory is bounded by the longest request.

``experts`` [N, L, K] integers; optional ``weights`` [N, L, K] floats and ``token_ids`` [N]; per request (R of
them, their rows one after the other) ``req_len`` and ``req_offset``, ``req_prefill`` (leading rows that were one
prefill pass), ``req_decode`` (the rows after them) and ``req_prompt_tokens_not_traced`` (prompt tokens without
rows); at least one of these three. Without ``req_len`` the archive is one request.
"""

from __future__ import annotations

import gzip
import math
import zlib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import one_of
from traces.format import DECODE, MAX_EXPERTS, PREFILL, Array, Request, by_descending_weight, refusal
from traces.importers import Importer, Options, assign_splits
from traces.importers.archive import Archive
from traces.importers.arrivals import read_arrivals
from traces.importers.files import bounded_json, check_request_size, open_source, round_experts
from traces.manifest import Prompts, Recorder
from traces.npy import Header
from traces.words import integer
from traces.writer import TraceWriter

_TOKEN_ARRAYS = {"experts": "ui", "weights": "f", "token_ids": "ui"}
_REQUEST_ARRAYS = ("req_offset", "req_len", "req_prefill", "req_decode", "req_prompt_tokens_not_traced")
_MAX_REQUESTS = 1_000_000
_MAX_META = 2**25
_READ = 2**22


@dataclass(frozen=True)
class _Requests:
    """Per request: rows of its prefill pass and of its decode passes, and the prompt tokens without rows."""

    prefill: Array
    decode: Array
    not_traced: Array


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the archive ``source`` as a trace in the new folder ``target``; returns ``target``.

    E is ``options.n_experts``, else the largest id plus one, rounded up to a multiple of 4 lest the last experts
    were never chosen. Slots that are not by descending weight are sorted, ties as they came.
    ``output_tokens`` is one more than the decode passes: the prompt's pass yields the first token. The source of
    a request is its "dataset" in ``options.meta``, a JSON list (may be gzipped) with one object per request.
    Nothing is unpickled, and no array is read whose header claims more than its bytes. Raises TraceError.
    """
    with Archive(source) as archive:
        headers = {name: archive.header(name, _TOKEN_ARRAYS.get(name, "ui")) for name in _names(archive)}
        if "experts" not in headers:
            raise refusal(source.name, "arrays", one_of(headers), "experts among them")
        rows, n_layers, top_k = _check_shapes(source, headers)
        requests = _read_requests(archive, headers, rows)
        check_request_size(source.name, int((requests.prefill + requests.decode).max()), n_layers, top_k)
        n_experts = options.n_experts or _count_experts(archive, headers["experts"])
    count = min(len(requests.decode), options.limit or len(requests.decode))
    splits = assign_splits(count, options.split, options.seed)
    arrivals = read_arrivals(options.arrivals, count)
    sources = _sources(options, len(requests.decode), source.name)
    signals: dict[str, tuple[int, ...]] = {}
    if "weights" in headers:
        signals["expert_weights"] = (n_layers, top_k)
    if "token_ids" in headers:
        signals["token_ids"] = ()
    with ExitStack() as stack:
        out = stack.enter_context(
            TraceWriter(target, n_layers=n_layers, n_experts=n_experts, top_k=top_k, signals=signals)
        )
        archive = stack.enter_context(Archive(source))
        streams = {
            name: stack.enter_context(closing(archive.rows(name, headers[name])))
            for name in _TOKEN_ARRAYS
            if name in headers
        }
        for number in range(count):
            prefill, decode = int(requests.prefill[number]), int(requests.decode[number])
            prompt = int(requests.not_traced[number]) + prefill
            part = {name: stream.read(prefill + decode) for name, stream in streams.items()}
            steps = [(PREFILL, prefill, prompt - prefill)] if prefill else []
            steps += [(DECODE, 1, prompt + index) for index in range(decode)]
            given = {"expert_ids": part["experts"]}
            if "weights" in part:
                ordered = by_descending_weight(part["experts"], part["weights"])
                given["expert_ids"], given["expert_weights"] = ordered
            if "token_ids" in part:
                given["token_ids"] = part["token_ids"]
            request = Request(number, prompt, decode + 1, arrivals[number], splits[number], sources[number])
            out.add_request(request, steps=steps, **given)
        return out.close(
            name=options.model or source.stem,
            recorder=Recorder("npz", None, None),
            decoding={"mode": "unknown"},
            recording="recorded",
            prompts=Prompts(options.source, options.licence),
        )


def _names(archive: Archive) -> list[str]:
    known = (*_TOKEN_ARRAYS, *_REQUEST_ARRAYS)
    for name in archive.names():
        if name not in known:
            raise refusal(archive.source.name, "member", f"{name}.npy", f"NAME.npy of {one_of(known)}")
    return archive.names()


def _check_shapes(source: Path, headers: dict[str, Header]) -> tuple[int, int, int]:
    shape = headers["experts"].shape
    if len(shape) != 3 or 0 in shape:
        raise refusal(f"{source.name}/experts.npy", "shape", shape, "(rows, layers, slots), none of them 0")
    for name, expected in (("weights", shape), ("token_ids", shape[:1])):
        if name in headers and headers[name].shape != expected:
            raise refusal(f"{source.name}/{name}.npy", "shape", headers[name].shape, f"{expected}, as in experts")
    return shape[0], shape[1], shape[2]


def _read_requests(archive: Archive, headers: dict[str, Header], rows: int) -> _Requests:
    source, given = archive.source, {}
    for name in _REQUEST_ARRAYS:
        if name in headers:
            size = math.prod(headers[name].shape)
            if len(headers[name].shape) != 1 or not 1 <= size <= _MAX_REQUESTS:
                allowed = f"(requests,), 1 to {_MAX_REQUESTS} of them"
                raise refusal(f"{source.name}/{name}.npy", "shape", headers[name].shape, allowed)
            with closing(archive.rows(name, headers[name])) as stream:
                given[name] = stream.read(size).astype(np.int64)
    length = given.get("req_len", np.array([rows]))

    def refuse(bad: Array, name: str, allowed: str) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            raise refusal(f"{source.name}/{name}.npy", f"value {index}", given[name][index], allowed)

    for name, values in given.items():
        if values.shape != length.shape:
            raise refusal(f"{source.name}/{name}.npy", "shape", values.shape, f"{length.shape}, as in req_len")
        refuse((values < 0) | (values >= 2**31), name, "0 to 2147483647")
    if length.sum() != rows or (length < 1).any():
        raise refusal(f"{source.name}/req_len.npy", "sum", length.sum(), f"{rows} rows, at least 1 per request")
    if "req_offset" in given:
        refuse(given["req_offset"] != np.cumsum(length) - length, "req_offset", "the sum of the lengths before")
    if not {"req_prefill", "req_decode", "req_prompt_tokens_not_traced"} & set(given):
        allowed = "req_prefill, req_decode or req_prompt_tokens_not_traced, which say where a prompt ends"
        raise refusal(source.name, "arrays", one_of(headers), allowed)
    prefill = given.get("req_prefill", length - given.get("req_decode", length))
    if (prefill > length).any() or (prefill < 0).any():
        raise refusal(source.name, "req_prefill or req_decode", "longer than its request", "at most req_len")
    if "req_decode" in given:
        refuse(given["req_decode"] != length - prefill, "req_decode", "req_len - req_prefill")
    return _Requests(prefill, length - prefill, given.get("req_prompt_tokens_not_traced", np.zeros_like(length)))


def _count_experts(archive: Archive, header: Header) -> int:
    largest, left = 0, header.shape[0]
    with closing(archive.rows("experts", header)) as stream:
        while left:
            part = stream.read(min(left, max(1, _READ // stream.row_bytes)))
            largest, left = max(largest, int(part.max())), left - len(part)
    return round_experts(largest)


def _sources(options: Options, requests: int, default: str) -> list[str]:
    if options.meta is None:
        return [options.source or default] * requests
    name = options.meta.name
    try:
        with open_source(options.meta, "JSON") as file:
            raw = (gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file).read(_MAX_META + 1)
        if len(raw) > _MAX_META:
            raise refusal(name, "size", "larger", f"at most {_MAX_META} bytes")
        entries: Any = bounded_json(raw, 2**21, 2**22)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise refusal(name, "content", str(error), "a JSON list, plain or gzipped") from None
    if not isinstance(entries, list) or len(entries) != requests:
        found = len(entries) if isinstance(entries, list) else type(entries).__name__
        raise refusal(name, "entries", found, f"a list of {requests}, one per request")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("dataset"), str):
            raise refusal(name, f"dataset of entry {index}", entry, "text")
    return [entry["dataset"] for entry in entries]


IMPORTER = Importer(
    "npz",
    import_trace,
    """\
npz: experts [N, L, K]; optional weights [N, L, K], token_ids [N]; and one number per request in req_len, req_offset,
  req_prefill, req_decode, req_prompt_tokens_not_traced, of which one of the last three is needed.
  n_experts=E      experts per layer (default: the largest id + 1, rounded up to a multiple of 4)
  meta=FILE        JSON list, may be gzipped, with one object per request; its "dataset" becomes the source
""",
    {"n_experts": integer("n_experts", 1, MAX_EXPERTS), "meta": Path},
)
