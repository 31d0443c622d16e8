"""Headers of .npy files, read and written without ever unpickling or allocating what a header claims."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import IO

import numpy as np

from traces.format.layout import Array
from traces.kit.errors import refusal

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']*'|\[[^\[\]]*\]), 'fortran_order': (?P<fortran>False|True), "
    r"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n"
)


@dataclass(frozen=True)
class Header:
    """What the head of a .npy file says: numpy's text of the dtype, the shape, where the data start, their order."""

    descr: str
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False


def descr_of(dtype: np.dtype) -> str:
    """Return numpy's text for ``dtype``, as .npy headers hold it (a bare string for simple types)."""
    descr = np.lib.format.dtype_to_descr(dtype)
    return descr if isinstance(descr, str) else repr(descr)


def read_header(stream: IO[bytes], file: str) -> Header:
    """Parse the header and leave ``stream`` at the first byte of the data.

    Raises TraceError for anything but a version 1 or 2 header, and for object dtypes, which would have to be
    unpickled.
    """
    start = stream.read(8)
    if start[:6] != _MAGIC or start[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise refusal(file, "first bytes", start, "those of a .npy file, version 1.0 or 2.0")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER:
        raise refusal(file, "header length", length, f"at most {_MAX_HEADER} bytes")
    raw = stream.read(length)
    match = _HEADER.fullmatch(raw.decode("latin-1"))
    if match is None or len(raw) < length:
        raise refusal(file, "header", raw, "a complete .npy header")
    descr = match["descr"].strip("'")
    if "O" in descr:
        raise refusal(file, "dtype", named(descr), "numbers; pickled objects are never read")
    shape = tuple(int(size) for size in match["shape"].replace(",", " ").split())
    return Header(descr, shape, 8 + width + length, match["fortran"] == "True")


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
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()
