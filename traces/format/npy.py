"""Headers of .npy files, read and written without ever unpickling or allocating what a header claims."""

import io
import math
import warnings
from dataclasses import dataclass
from typing import IO

import numpy as np

from traces.format.layout import Array
from traces.kit.errors import refusal

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

    Raises TraceError for anything but a version 1 or 2 header, and for object dtypes, which would have to be
    unpickled.
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
    """Give the elements of a .npy file their shape."""
    if not fortran:
        return flat.reshape(shape)
    return np.ascontiguousarray(flat.reshape(shape[::-1]).T)


def check_header(header: Header, file: str, dtype: np.dtype, shape: tuple[int, ...], size: int) -> None:
    """Refuse a header that is not of ``dtype``, ``shape`` and in C order, or does not fill a file of ``size`` bytes."""
    if header.fortran:
        raise refusal(file, "order", "Fortran", "C")
    if header.descr != descr_of(dtype):
        raise refusal(file, "dtype", header.descr, descr_of(dtype))
    if header.shape != shape:
        raise refusal(file, "shape", header.shape, f"{shape}")
    expected = header.offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise refusal(file, "size", f"{size} bytes", f"{expected} bytes, which the header claims")


def header_bytes(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return a version 1.0 header; numpy pads it so that its length does not depend on ``shape[0]``."""
    stream = io.BytesIO()
    descr = _FORMAT.dtype_to_descr(dtype)
    _FORMAT.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()
