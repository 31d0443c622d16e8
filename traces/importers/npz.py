"""Import the arrays of a ``.npz`` archive: read as streams, never unpickled, never trusted for a size.

``experts`` [N, L, K] integers; optional ``weights`` [N, L, K] floats and ``token_ids`` [N]; per request (R of
them, their rows one after the other) ``req_len`` and ``req_offset``, ``req_prefill`` (leading rows that were one
prefill pass), ``req_decode`` (the rows after them) and ``req_prompt_tokens_not_traced`` (prompt tokens without
rows); at least one of these three. Without ``req_len`` the lengths are those of prefill and decode together, or come
from ``req_offset``; without any of them the archive is one request. Memory is bounded by the longest one.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, BinaryIO

import numpy as np

from traces.format.layout import Array
from traces.format.manifest import Recorder
from traces.format.npy import Header, in_c_order, named, read_header
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.counts import COUNTS, WANTED, are_counts
from traces.importers.files import MAX_REQUEST_IDS, check_request_size, content_of, json_lines
from traces.kit.errors import TraceError, one_of, refusal, shown
from traces.kit.strict import open_source

_TOKEN_ARRAYS = {"experts": "ui", "weights": "f", "token_ids": "ui"}
_SIGNALS = {"weights": "expert_weights", "token_ids": "token_ids"}
_REQUEST_ARRAYS = ("req_offset", "req_len", "req_prefill", "req_decode", "req_prompt_tokens_not_traced")
_MAX_REQUESTS = 1_000_000
_MAX_DIRECTORY = 2**24
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, ValueError, NotImplementedError)


class Bounded:
    """A file whose reads are bounded until ``limit`` is lifted: zipfile takes the list of members in one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.limit: int | None = _MAX_DIRECTORY
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and size > self.limit:
            raise zipfile.BadZipFile(f"a list of members of {size} bytes")
        return self._stream.read(size)

    def seekable(self) -> bool:
        return True


@dataclass(frozen=True)
class Archive:
    source: Path
    _zip: zipfile.ZipFile

    def names(self) -> list[str]:
        """Return the names of the arrays, each once; refuses what is no plain array."""
        names: dict[str, None] = {}
        for info in self._zip.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in names or not name.isprintable() or not name:
                raise refusal(self.source.name, "member", info.filename, "names that end in .npy, once each")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                allowed = "none or deflate, no password"
                raise refusal(self.source.name, f"compression of {name}", info.compress_type, allowed)
            names[name] = None
        return list(names)

    def header(self, name: str, kinds: str) -> Header:
        """Read the header of an array of one of ``kinds`` ("ui", "f"), if it claims the bytes that are there."""
        file = f"{self.source.name}/{name}.npy"
        info = self._zip.getinfo(f"{name}.npy")
        with reading(self.source), self._zip.open(info) as stream:
            header = read_header(stream, file)
        if not re.fullmatch(rf"[|<][{kinds}][1248]", header.descr):
            raise refusal(file, "dtype", named(header.descr), "floats" if kinds == "f" else "integers, little-endian")
        claimed = header.offset + math.prod(header.shape) * np.dtype(header.descr).itemsize
        if claimed != info.file_size:
            raise refusal(file, "size", f"{info.file_size} bytes", f"{claimed} bytes, which its header claims")
        if header.fortran and math.prod(header.shape) > MAX_REQUEST_IDS:
            # Its rows are spread over the whole member, so that it would have to be in memory as a whole.
            allowed = f"C order above {MAX_REQUEST_IDS} values: numpy.ascontiguousarray makes it so"
            raise refusal(file, "order", "Fortran", allowed)
        return header

    def read(self, name: str, header: Header) -> Array:
        """Read a whole array; the caller bounds its size."""
        with self.rows(name, header) as take:
            return take(header.shape[0])

    @contextmanager
    def rows(self, name: str, header: Header) -> Iterator[Callable[[int], Array]]:
        """Open an array: what is yielded takes the next so many rows, whose number the caller bounds."""
        file, dtype = f"{self.source.name}/{name}.npy", np.dtype(header.descr)
        with reading(self.source):
            stream: IO[bytes] = self._zip.open(f"{name}.npy")
        with stream:

            def take(rows: int) -> Array:
                claimed = rows * math.prod(header.shape[1:]) * dtype.itemsize
                with reading(self.source):
                    raw = unread.read(claimed)
                if len(raw) != claimed:
                    raise refusal(file, "data", f"{len(raw)} bytes", f"{claimed} bytes, as claimed")
                return np.frombuffer(raw, dtype).reshape(rows, *header.shape[1:])

            unread = stream
            with reading(self.source):
                stream.read(header.offset)
            if header.fortran:
                whole = take(header.shape[0]).reshape(-1)
                unread = io.BytesIO(in_c_order(whole, header.shape, fortran=True).data)
            yield take


@contextmanager
def open_archive(source: Path) -> Iterator[Archive]:
    with open_source(source, ".npz") as stream:
        bounded = Bounded(stream)
        with reading(source):
            if not (kind := content_of(bounded.read(16))).startswith("a zip"):
                raise zipfile.BadZipFile(f"it holds {kind}")
            archive = zipfile.ZipFile(bounded)
        bounded.limit = None
        yield Archive(source, archive)


@contextmanager
def reading(source: Path, kind: str = ".npz") -> Iterator[None]:
    """Turn what zipfile finds wrong with the bytes, at opening or later, into one line."""
    try:
        yield
    except _BROKEN as error:
        raise TraceError(f"{source}: {shown(str(error))}; allowed: a readable {kind} archive") from None


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
    for name in (name for name in _REQUEST_ARRAYS if name in headers):
        shape = headers[name].shape
        if len(shape) != 1 or not 1 <= shape[0] <= _MAX_REQUESTS:
            raise refusal(f"{source.name}/{name}.npy", "shape", shape, f"(requests,), 1 to {_MAX_REQUESTS} of them")
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
