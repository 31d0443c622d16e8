"""Sources from strangers: lines of bounded length, strict JSON in everyday wrappings, errors that name the line.

Text may be gzipped, begin with a byte order mark, have blank lines and end its lines with CR LF. Where JSON Lines are
read, one JSON array of objects is, too, and objects that go over several lines, and the ``data:`` lines of a stream of
server-sent events. What else stands in a file is named. A line's number is always that of the (unpacked) file.
"""

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from traces.importers.counts import COUNTS, WANTED, are_counts_in, is_histogram
from traces.kit.errors import TraceError, UserError, one_of, refusal, shown
from traces.kit.strict import json_objects, load_json
from traces.kit.strict import open_source as open_source

_OBJECT = "one JSON object with unique keys"
MAX_REQUEST_IDS = 2**24
"""The most expert ids of one request, which is what an importer holds in memory."""


def check_request_size(file: str, rows: int, n_layers: int, top_k: int) -> None:
    """Refuse a request whose ids would not fit into memory."""
    if rows * n_layers * top_k > MAX_REQUEST_IDS:
        found = f"{rows} tokens x {n_layers} layers x {top_k} slots"
        raise refusal(file, "one request", found, f"at most {MAX_REQUEST_IDS} ids")


@dataclass(frozen=True)
class Line:
    """One line of a file, for errors and for typed access to the values in it.

    ``item``: the number of the object that begins there, where objects are not one a line. ``cut``: the file ends in
    this line.
    """

    file: str
    number: int
    item: int = 0
    cut: bool = False

    @property
    def where(self) -> str:
        return f"line {self.number}, object {self.item}" if self.item else f"line {self.number}"

    def refuse(self, field: str, value: object, allowed: str) -> TraceError:
        return refusal(self.file, f"{self.where}, {field}", value, allowed)

    def refuse_counts(self) -> TraceError:
        """Build the error for counts where the experts of tokens belong."""
        return self.refuse("content", COUNTS, WANTED)

    def refuse_text(self, raw: bytes, allowed: str) -> TraceError:
        """Build the error for a line that is none of the format's, such as one of counts."""
        text = raw.decode("utf-8", "replace")
        return self.refuse_counts() if are_counts_in(text) else self.refuse("content", text, allowed)

    def keys(self, node: dict[str, Any], needed: Sequence[str], more: Sequence[str]) -> None:
        """Refuse an object that lacks a key that is needed, or has another one than ``more``."""
        if not set(needed) <= set(node) <= {*needed, *more}:
            raise self.refuse("keys", one_of(node), f"{one_of(needed)}, and some of {one_of(more)}")

    def integer(self, field: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(field, value, f"an integer, {low} to {high}")
        return value

    def at_most(self, field: str, value: int, most: int) -> None:
        if value > most:
            raise self.refuse(field, value, f"at most {most}")

    def items(self, field: str, value: object, most: int) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.refuse(field, value, f"a list of 1 to {most} items")
        return value

    def ids(self, field: str, value: object, most: int, n_experts: int) -> list[int]:
        """Return a list of 1 to ``most`` ids of ``n_experts`` experts, -1 where absent."""
        ids = self.items(field, value, most)
        for item in ids:
            self.integer(field, item, -1, n_experts - 1)
        return ids

    def weights(self, field: str, value: object, length: int) -> list[float]:
        weights = self.items(field, value, length)
        for item in weights:
            if type(item) not in (int, float) or not (0 <= item <= 65504 and math.isfinite(item)):
                raise self.refuse(field, item, "numbers that float16 holds, at least 0")
        if len(weights) != length:
            raise self.refuse(f"length of {field}", len(weights), f"{length}, as many as ids")
        return weights


def text_lines(source: Path, kind: str, most: int) -> Iterator[tuple[Line, bytes]]:
    """Yield the lines that are not blank, without their ends; a line of more than ``most`` bytes is refused."""
    with open_text(source, kind) as stream:
        yield from (found for found in _lines(source, stream, kind, most) if found[1].strip())


def plain_lines(source: Path, kind: str, most: int) -> Iterator[tuple[Line, bytes]]:
    """Yield all lines of a file that is not wrapped in anything, blank ones too; otherwise as text_lines."""
    with open_source(source, kind) as stream:
        yield from _lines(source, stream, kind, most)


def _lines(source: Path, stream: BinaryIO, kind: str, most: int) -> Iterator[tuple[Line, bytes]]:
    try:
        for number, raw in enumerate(iter(lambda: stream.readline(most + 1), b""), start=1):
            line = Line(source.name, number, cut=not raw.endswith(b"\n"))
            if len(raw) > most:
                raise line.refuse("length", f"over {most} bytes", f"at most {most} bytes")
            yield line, raw.rstrip(b"\r\n")
    except OSError as error:
        raise TraceError(f"{source}: {error.strerror}; allowed: a readable {kind} file") from None


def json_lines(source: Path, most: int = 2**20, lists: int = 2**18, items: int = 2**18) -> Iterator[tuple[Line, Any]]:
    """Yield the objects of a JSON Lines file, of which each has at most so many lists and items.

    Also of a JSON array, of objects over several lines, and of server-sent events. Objects of counts are refused.
    """
    spread = _is_spread(source)
    for line, document in _spread(source, lists, items) if spread else _one_a_line(source, most, lists, items):
        if not isinstance(document, dict):
            raise line.refuse("content", shown(document), _OBJECT)
        if is_histogram(document):
            raise line.refuse_counts()
        yield line, document


def _one_a_line(source: Path, most: int, lists: int, items: int) -> Iterator[tuple[Line, Any]]:
    """Read an object a line; or, where the first one stands in a data: line, a stream of events to its end."""
    events: bool | None = None
    around: tuple[Line, bytes] | None = None
    for line, raw in text_lines(source, "JSON Lines", most):
        found = re.match(rb"(data|event|id|retry)?:", raw) if events is not False else None
        if found and found[1] != b"data":
            around = around or (line, raw)
            continue
        if events is None:
            events = found is not None
            if around and not events:
                raise around[0].refuse("content", around[1][:80], _OBJECT)
        if found:
            raw = raw[found.end() :].strip()
            if raw == b"[DONE]":
                continue
        elif events:
            raise line.refuse("content", raw[:80], "data: and one JSON object, as in the lines before")
        try:
            document = bounded_json(raw, lists, items)
        except ValueError as error:
            if are_counts_in(raw[:4096].decode("latin-1")):
                raise line.refuse_counts() from None
            why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            hint = "; the file ends in this line, and limit=N takes the N requests before it"
            raise line.refuse("content", why, _OBJECT + hint * (line.cut and line.number > 1)) from None
        yield line, document


def _spread(source: Path, lists: int, items: int) -> Iterator[tuple[Line, Any]]:
    with open_text(source, "JSON") as stream:
        try:
            for number, (line, document) in enumerate(json_objects(stream, source.name, lists, items), start=1):
                yield Line(source.name, line, number), document
        except UserError as error:
            raise TraceError(str(error)) from None


def _is_spread(source: Path) -> bool:
    """Say whether objects are not one a line: an array, or an object whose first line does not end it."""
    with open_text(source, "JSON Lines") as stream:
        head, number = b"", 1
        while not head.strip() and (block := stream.read(2**16)):
            number += head.count(b"\n")
            head = block
        number += head[: len(head) - len(head.lstrip())].count(b"\n")
        head = head.lstrip()
        if re.match(rb"\[[\s\[]*-?[0-9]", head):
            found, allowed = "a list of numbers", f"objects with {WANTED}"
            raise Line(source.name, number).refuse("content", found, allowed)
        first, ends, _ = head.partition(b"\n")
        return head.startswith(b"[") or (head.startswith(b"{") and bool(ends) and not first.rstrip().endswith(b"}"))


def bounded_json(raw: bytes, lists: int, items: int) -> Any:
    """Parse JSON of bounded cost, else ValueError: a list takes some 60 bytes in memory, a string or an object more."""
    for sign, limit in (("[", lists), ("{", 2**19), (",", items)):
        if raw.count(sign.encode()) > limit:
            raise ValueError(f"over {limit} times {sign}")
    return load_json(raw)


_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_OTHERS = {
    _GZIP: "gzip",
    b"PK\3\4": "a zip archive (.npz, or .pt of PyTorch)",
    b"PK\5\6": "an empty zip archive",
    b"\x93NUMPY": "a .npy array",
    b"PAR1": "Parquet",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "an SQLite database",
    b"GGUF": "a GGUF model",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    **{bytes([0x80, version]): "a pickle, which is never read" for version in range(2, 6)},
}


def content_of(head: bytes) -> str:
    """Say what the first bytes of a file are of: "text" where nothing else is known."""
    wide = len(head) > 3 and (head[:2].count(0), head[2:4].count(0)) == (1, 1)
    plain = "UTF-16 text" if wide else "text" if head else "nothing"
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), plain)


_FREE = 2**24
_RATIO = 100
"""Bytes that any gzip may hold, and beyond them how many of each compressed byte: JSON packs into a tenth or so."""


class _Unpacked(io.RawIOBase):
    """The bytes of a gzip file, whose size its compressed size bounds."""

    def __init__(self, source: Path, packed: BinaryIO) -> None:
        self._name, self._packed = source.name, packed
        self._most = max(_FREE, _RATIO * source.stat().st_size)
        self._plain, self._count = gzip.GzipFile(fileobj=packed), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            raw = self._plain.read1(len(view))
        except (OSError, EOFError, zlib.error) as error:
            why = f"{error} after {self._count} bytes"
            raise refusal(self._name, "gzip", why, "a gzip file that is whole") from None
        self._count += len(raw)
        if self._count > self._most:
            found = f"over {self._most} bytes, more than {_RATIO} times its size"
            raise refusal(self._name, "gzip", found, "less, or the file unpacked")
        view[: len(raw)] = raw
        return len(raw)

    def close(self) -> None:
        self._packed.close()
        super().close()


def open_text(source: Path, what: str) -> BinaryIO:
    """Open a text file at its first character: gzip (by its first bytes) is unpacked, a BOM of UTF-8 skipped.

    Raises TraceError for what is no text of one byte a character: archives, other compressions, UTF-16, pickles.
    """
    stream: BinaryIO = open_source(source, what)
    try:
        assert isinstance(stream, io.BufferedReader)
        packed = stream.peek(8).startswith(_GZIP)
        reader = io.BufferedReader(_Unpacked(source, stream)) if packed else stream
        head = reader.peek(16)
        kind = content_of(head)
        if kind not in ("text", "nothing"):
            found = f"{kind}, inside gzip" if packed else kind
            raise refusal(source.name, "content", found, f"UTF-8 text, {what}, plain or gzipped")
        if head.startswith(_BOM):
            reader.read(len(_BOM))
    except OSError as error:
        stream.close()
        raise TraceError(f"{source}: {error.strerror}; allowed: a readable {what} file") from None
    except BaseException:
        stream.close()
        raise
    return reader
