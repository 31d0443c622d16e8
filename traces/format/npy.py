"""The files of a trace as they lie on the disk: regular, of the stated size and hash; arrays are mapped, never copied.

Headers of .npy files are read and written without ever unpickling or allocating what a header claims.
"""

import hashlib
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from traces.format.layout import MANIFEST_FILE, Array
from traces.kit.errors import refusal
from traces.kit.fields import FileEntry

_CHUNK = 8 * 2**20
_FORMAT = np.lib.format
_READERS = {(1, 0): (2, _FORMAT.read_array_header_1_0), (2, 0): (4, _FORMAT.read_array_header_2_0)}
"""By version: how many bytes the header's length takes, and what reads it."""
_MAX_HEADER = 4096
_MAX_SIZE = 2**62


@dataclass(frozen=True)
class Header:
    """What the head of a .npy file says: numpy's text of the dtype, the shape, where the data start, their order."""

    descr: str
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False


def descr_of(dtype: np.dtype) -> str:
    """Return numpy's text for ``dtype``, as .npy headers hold it (a bare string for simple types)."""
    descr = _FORMAT.dtype_to_descr(dtype)
    return descr if isinstance(descr, str) else repr(descr)


def read_header(stream: IO[bytes], file: str) -> Header:
    """Parse the header and leave ``stream`` at the first byte of the data.

    Raises TraceError for anything but a version 1 or 2 header, and for object dtypes, which would have to be unpickled.
    """
    start = stream.read(_FORMAT.MAGIC_LEN)
    if not start.startswith(_FORMAT.MAGIC_PREFIX) or (version := tuple(start[-2:])) not in _READERS:
        raise refusal(file, "first bytes", start, "those of a .npy file, version 1.0 or 2.0")
    width, read = _READERS[version]
    claim = stream.read(width)
    length = int.from_bytes(claim, "little")
    if length > _MAX_HEADER:  # numpy would read it first
        raise refusal(file, "header length", length, f"at most {_MAX_HEADER} bytes")
    raw = stream.read(length)
    try:
        with warnings.catch_warnings(action="error"):  # it warns of what it had to mend
            shape, fortran, dtype = read(io.BytesIO(claim + raw), max_header_size=_MAX_HEADER)
        descr = descr_of(dtype)
    except Exception:  # it parses a Python literal, and makes a dtype of it: strangers' bytes find every kind of error
        raise refusal(file, "header", raw, "a complete .npy header") from None
    if dtype.hasobject:
        raise refusal(file, "dtype", named(descr), "numbers; pickled objects are never read")
    if any(type(size) is not int or not 0 <= size <= _MAX_SIZE for size in shape):
        raise refusal(file, "shape", shape, f"integers, 0 to {_MAX_SIZE}")
    return Header(descr, shape, len(start + claim + raw), fortran)


def named(descr: str) -> str:
    """Say in words what numpy's text of a dtype stands for, the text behind it."""
    kinds = {"f": "floats", "c": "complex numbers", "b": "booleans", "U": "text", "S": "bytes", "M": "dates"}
    kinds |= {"i": "integers", "u": "unsigned integers", "V": "records", "O": "Python objects", "m": "durations"}
    kind = kinds.get(descr.lstrip("<>|=")[:1], "records" if descr.startswith("[") else "something else")
    return f"{'big-endian ' if descr.startswith('>') else ''}{kind} ({descr})"


def in_c_order(flat: Array, shape: tuple[int, ...], *, fortran: bool) -> Array:
    if not fortran:
        return flat.reshape(shape)
    return np.ascontiguousarray(flat.reshape(shape[::-1]).T)


def header_bytes(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return a version 1.0 header; numpy pads it so that its length does not depend on ``shape[0]``."""
    stream = io.BytesIO()
    descr = _FORMAT.dtype_to_descr(dtype)
    _FORMAT.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open a file that lies in the folder itself: a link could lead out of it, a pipe could hang."""
    if not stat.S_ISREG((folder / name).lstat().st_mode):
        raise refusal(name, "kind of file", "not a regular file", "a regular file; links are not followed")
    return (folder / name).open("rb")


def check_file(folder: Path, name: str, entry: FileEntry, *, hashed: bool, listed: str = MANIFEST_FILE) -> None:
    """Refuse a file that has not the size, or if ``hashed`` not the SHA-256, that the file ``listed`` says."""
    with open_file(folder, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != entry.bytes:
            raise refusal(name, "size", f"{size} bytes", f"{entry.bytes} bytes, as in {listed}")
        if hashed and (found := hash_stream(stream)) != entry.sha256:
            raise refusal(name, "SHA-256", found, f"{entry.sha256}, as in {listed}")


def hash_stream(stream: Any) -> str:
    """The SHA-256 of what remains in a binary stream."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def map_file(
    folder: Path, name: str, entry: FileEntry, dtype: np.dtype, shape: tuple[int, ...], listed: str = MANIFEST_FILE
) -> np.memmap:
    """Map an array, read-only, after its header has been held against its size, ``dtype``, ``shape`` and ``entry``."""
    with open_file(folder, name) as stream:
        header, size = read_header(stream, name), os.fstat(stream.fileno()).st_size
        if header.fortran:
            raise refusal(name, "order", "Fortran", "C")
        if header.descr != descr_of(dtype):
            raise refusal(name, "dtype", header.descr, descr_of(dtype))
        if header.shape != shape:
            raise refusal(name, "shape", header.shape, f"{shape}")
        expected = header.offset + math.prod(shape) * dtype.itemsize
        if size != expected:
            raise refusal(name, "size", f"{size} bytes", f"{expected} bytes, which the header claims")
        if (entry.dtype, entry.shape) != (header.descr, header.shape):
            found = f"{entry.dtype} {entry.shape}"
            raise refusal(listed, f"dtype and shape of {name}", found, f"{header.descr} {header.shape}")
        return np.memmap(stream, dtype=dtype, mode="r", offset=header.offset, shape=shape)


def row_chunks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Cut ``rows`` rows into slices of some megabytes, at least one row each."""
    size = max(1, _CHUNK // max(1, row_bytes))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
