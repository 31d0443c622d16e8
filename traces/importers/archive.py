"""Arrays of a ``.npz`` archive, read as streams: never unpickled, never trusted for a size."""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from traces.format.layout import Array
from traces.format.npy import Header, in_c_order, named, read_header
from traces.importers.files import MAX_REQUEST_IDS, content_of
from traces.kit.errors import TraceError, refusal, shown
from traces.kit.strict import open_source

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
