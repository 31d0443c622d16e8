"""Headers of .npy files, read and written without ever unpickling or allocating what a header claims."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import IO

import numpy as np

from traces.format import refusal

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']*'|\[[^\[\]]*\]), 'fortran_order': (?P<fortran>False|True), "
    r"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n"
)


@dataclass(frozen=True)
class Header:
    """What the head of a .npy file says: numpy's text of the dtype, the shape, where the data start."""

    descr: str
    shape: tuple[int, ...]
    offset: int


def descr_of(dtype: np.dtype) -> str:
    """Return numpy's text for ``dtype``, as .npy headers hold it (a bare string for simple types)."""
    descr = np.lib.format.dtype_to_descr(dtype)
    return descr if isinstance(descr, str) else repr(descr)


def read_header(stream: IO[bytes], file: str) -> Header:
    """Parse the header and leave ``stream`` at the first byte of the data.

    Raises TraceError for anything but a version 1 or 2 header in C order, and for object dtypes, which would
    have to be unpickled.
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
        raise refusal(file, "dtype", descr, "numbers; pickled objects are never read")
    if match["fortran"] == "True":
        raise refusal(file, "order", "Fortran", "C")
    shape = tuple(int(size) for size in match["shape"].replace(",", " ").split())
    return Header(descr, shape, 8 + width + length)


def check_header(header: Header, file: str, dtype: np.dtype, shape: tuple[int, ...], size: int) -> None:
    """Refuse a header that is not of ``dtype`` and ``shape``, or does not fill a file of ``size`` bytes."""
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
