"""Arrays of a ``.npz`` archive, read as streams: never unpickled, never trusted for a size."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from traces.format.layout import Array
from traces.format.npy import Header, in_c_order, named, read_header
from traces.importers.files import MAX_REQUEST_IDS
from traces.importers.wrappings import content_of
from traces.kit.errors import TraceError, refusal, shown
from traces.kit.strict import open_source

_MAX_DIRECTORY = 2**24
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, ValueError, NotImplementedError)


class Bounded:
    """A file whose reads are bounded until ``limit`` is lifted: zipfile takes the list of members in one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.limit: int | None = _MAX_DIRECTORY
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and size > self.limit:
            raise zipfile.BadZipFile(f"a list of members of {size} bytes")
        return self._stream.read(size)

    def seekable(self) -> bool:
        return True


class Archive:
    """An open archive."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._file = Bounded(open_source(source, ".npz"))
        try:
            with reading(source):
                kind = content_of(self._file.read(16))
                if not kind.startswith("a zip"):
                    raise zipfile.BadZipFile(f"it holds {kind}")
                self._zip = zipfile.ZipFile(self._file)
            self._file.limit = None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

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
        with closing(self.rows(name, header)) as stream:
            return stream.read(header.shape[0])

    def rows(self, name: str, header: Header) -> Rows:
        """Open an array for reading in order."""
        with reading(self.source):
            return Rows(self._zip.open(f"{name}.npy"), self.source, name, header)


class Rows:
    """The rows of one array of an archive, read in order."""

    def __init__(self, stream: IO[bytes], source: Path, name: str, header: Header) -> None:
        self._file, self._source, self._stream = f"{source.name}/{name}.npy", source, stream
        with reading(source):
            self._stream.read(header.offset)
        self._dtype, self._trailing = np.dtype(header.descr), header.shape[1:]
        self._row_bytes, self._at = math.prod(self._trailing) * self._dtype.itemsize, 0
        self._whole: Array | None = None
        if header.fortran:
            self._whole = in_c_order(self.read(header.shape[0]).reshape(-1), header.shape, fortran=True)

    def read(self, rows: int) -> Array:
        """Return the next rows; the caller bounds their number."""
        if self._whole is not None:
            self._at += rows
            return self._whole[self._at - rows : self._at]
        claimed = rows * self._row_bytes
        with reading(self._source):
            raw = self._stream.read(claimed)
        if len(raw) != claimed:
            raise refusal(self._file, "data", f"{len(raw)} bytes", f"{claimed} bytes, as claimed")
        return np.frombuffer(raw, self._dtype).reshape(rows, *self._trailing)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


@contextmanager
def reading(source: Path, kind: str = ".npz") -> Iterator[None]:
    """Turn what zipfile finds wrong with the bytes, at opening or later, into one line."""
    try:
        yield
    except _BROKEN as error:
        raise TraceError(f"{source}: {shown(str(error))}; allowed: a readable {kind} archive") from None
