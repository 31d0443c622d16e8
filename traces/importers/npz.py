"""Import the arrays of a ``.npz`` archive, read as streams: memory is bounded by the longest request.

``experts`` [N, L, K] integers; optional ``weights`` [N, L, K] floats and ``token_ids`` [N]; per request (R of
them, their rows one after the other) ``req_len`` and ``req_offset``, ``req_prefill`` (leading rows that were one
prefill pass), ``req_decode`` (the rows after them) and ``req_prompt_tokens_not_traced`` (prompt tokens without
rows); at least one of these three. Without ``req_len`` the lengths are those of prefill and decode together, or come
from ``req_offset``; without any of them the archive is one request.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np

from traces.format.layout import Array
from traces.format.manifest import Recorder
from traces.format.npy import Header
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.archive import Archive, open_archive
from traces.importers.build import File, Found, build
from traces.importers.counts import COUNTS, WANTED, are_counts
from traces.importers.files import check_request_size, json_lines
from traces.kit.errors import one_of, refusal

_TOKEN_ARRAYS = {"experts": "ui", "weights": "f", "token_ids": "ui"}
_SIGNALS = {"weights": "expert_weights", "token_ids": "token_ids"}
_REQUEST_ARRAYS = ("req_offset", "req_len", "req_prefill", "req_decode", "req_prompt_tokens_not_traced")
_MAX_REQUESTS = 1_000_000


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the archive ``source``. Nothing is unpickled; no array is read whose header claims more than its bytes."""
    with open_archive(source) as archive:
        headers = _headers(archive)
        rows, n_layers, top_k = headers["experts"].shape
        requests = _read_requests(archive, headers, rows)
    check_request_size(source.name, max(prefill + decode for prefill, decode, _ in requests), n_layers, top_k)
    sources = _sources(options, len(requests))
    file = File(Recorder("npz", None, None), source.stem, n_layers, None, None, ids="experts")
    return build(source, target, options, file, lambda: _requests(source, headers, requests, sources))


def _requests(
    source: Path, headers: dict[str, Header], requests: list[tuple[int, int, int]], sources: list[str] | None
) -> Iterator[Found]:
    with open_archive(source) as archive, ExitStack() as stack:
        known = [name for name in _TOKEN_ARRAYS if name in headers]
        takes = {name: stack.enter_context(archive.rows(name, headers[name])) for name in known}
        first = 0
        for number, (prefill, decode, before) in enumerate(requests):
            part = {name: take(prefill + decode) for name, take in takes.items()}
            signals = {_SIGNALS[name]: array for name, array in part.items() if name in _SIGNALS}
            where = f"{source.name}: request {number}"
            source_of = sources[number] if sources else None
            yield Found(where, part["experts"], prefill, before, signals=signals, first_row=first, source=source_of)
            first += prefill + decode


def _headers(archive: Archive) -> dict[str, Header]:
    """Return the headers of the arrays, which are those of the format, and those of tokens of one shape."""
    source, names, known = archive.source.name, archive.names(), (*_TOKEN_ARRAYS, *_REQUEST_ARRAYS)
    if are_counts(names):
        raise refusal(source, "arrays", COUNTS, WANTED)
    if odd := next((name for name in names if name not in known), None):
        raise refusal(source, "member", f"{odd}.npy", f"NAME.npy of {one_of(known)}")
    if "experts" not in names:
        raise refusal(source, "arrays", one_of(names), "experts among them")
    headers = {name: archive.header(name, _TOKEN_ARRAYS.get(name, "ui")) for name in names}
    shape = headers["experts"].shape
    if len(shape) != 3 or 0 in shape:
        raise refusal(f"{source}/experts.npy", "shape", shape, "(rows, layers, slots), none of them 0")
    for name, expected in (("weights", shape), ("token_ids", shape[:1])):
        if name in headers and headers[name].shape != expected:
            raise refusal(f"{source}/{name}.npy", "shape", headers[name].shape, f"{expected}, as in experts")
    return headers


def _read_requests(archive: Archive, headers: dict[str, Header], rows: int) -> list[tuple[int, int, int]]:
    """Return per request the rows of its prefill pass and of its decode passes, and the prompt tokens without rows."""
    source, given = archive.source, dict[str, Array]()
    for name in _REQUEST_ARRAYS:
        if name in headers:
            size = math.prod(headers[name].shape)
            if len(headers[name].shape) != 1 or not 1 <= size <= _MAX_REQUESTS:
                allowed = f"(requests,), 1 to {_MAX_REQUESTS} of them"
                raise refusal(f"{source.name}/{name}.npy", "shape", headers[name].shape, allowed)
            given[name] = archive.read(name, headers[name]).astype(np.int64)

    def refuse(bad: Array, name: str, allowed: str) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            raise refusal(f"{source.name}/{name}.npy", f"value {index}", given[name][index], allowed)

    first = next(iter(given), "")
    for name, values in given.items():
        if values.shape != given[first].shape:
            raise refusal(f"{source.name}/{name}.npy", "shape", values.shape, f"{given[first].shape}, as in {first}")
        refuse((values < 0) | (values >= 2**31), name, "0 to 2147483647")
    said, length = _lengths(given, rows)
    if first and given[first].shape != length.shape:
        allowed = f"{length.shape}: without req_len, or prefill and decode together, the archive is one request"
        raise refusal(f"{source.name}/{first}.npy", "shape", given[first].shape, allowed)
    if length.sum() != rows or (length < 1).any():
        raise refusal(source.name, f"sum of {said}", length.sum(), f"{rows} rows, at least 1 per request")
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
    before = given.get("req_prompt_tokens_not_traced", np.zeros_like(length))
    return list(zip(prefill.tolist(), (length - prefill).tolist(), before.tolist(), strict=True))


def _lengths(given: dict[str, Array], rows: int) -> tuple[str, Array]:
    """Return which arrays tell the rows of each request, and how many there are."""
    if "req_len" in given:
        return "req_len", given["req_len"]
    if {"req_prefill", "req_decode"} <= set(given):
        return "req_prefill and req_decode", given["req_prefill"] + given["req_decode"]
    if "req_offset" in given:
        return "req_offset", np.diff(given["req_offset"], append=rows)
    return "req_len, which is missing: one request", np.array([rows])


def _sources(options: Options, requests: int) -> list[str] | None:
    if options.meta is None:
        return None
    entries = list(json_lines(options.meta))
    for line, entry in entries:
        if not isinstance(entry.get("dataset"), str):
            raise line.refuse("dataset", entry.get("dataset"), "text")
    if len(entries) != requests:
        raise refusal(options.meta.name, "entries", len(entries), f"a list of {requests}, one per request")
    return [entry["dataset"] for _, entry in entries]


IMPORTER = Importer(
    "npz",
    import_trace,
    """\
an archive of arrays: experts [N, L, K]; optional weights [N, L, K] and
token_ids [N]; and one number per request in req_len, req_offset, req_prefill,
req_decode, req_prompt_tokens_not_traced, of which one of the last three is
needed.
""",
    {
        "n_experts": N_EXPERTS,
        "meta": Annotated[
            Path, 'JSON list, may be gzipped, with one object per request; its "dataset" becomes the source'
        ],
    },
)
