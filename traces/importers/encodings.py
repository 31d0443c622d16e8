"""How a response writes an array [tokens, layers, k] of ids: nested lists, base64 of .npy or of bare numbers."""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.format.npy import in_c_order, named, read_header
from traces.importers.files import MAX_REQUEST_IDS, Line, check_request_size
from traces.kit.errors import one_of

_INTEGERS = {"u1": "|u1", "i1": "|i1", **{kind: f"<{kind}" for kind in ("u2", "i2", "u4", "i4", "u8", "i8")}}


def decode(line: Line, field: str, value: object, own: Mapping[str, Any]) -> Array:
    """Return the ids [tokens, layers, k], -1 where absent; ``own`` may have n_layers and top_k."""
    if isinstance(value, list):
        return _nested(line, field, value)
    if isinstance(value, str):
        return _base64(line, field, value, own)
    if isinstance(value, dict):
        return _described(line, field, value)
    raise line.refuse(field, value, "a list [tokens][layers][k], base64 text, or data with its shape and dtype")


def _nested(line: Line, field: str, rows: list[Any]) -> Array:
    """Flatten the list, if it is regular and holds nothing but small integers; a layer may have a k of its own."""
    first = rows[0] if rows else None
    widths = [len(ids) if isinstance(ids, list) else 0 for ids in first] if isinstance(first, list) else []
    if not widths or not all(widths):
        raise line.refuse(f"start of {field}", first, "lists [tokens][layers][k], none of them empty")
    check_request_size(line.file, len(rows), len(widths), max(widths))
    ids = np.full((len(rows), len(widths), max(widths)), -1, np.int32)
    for index, row in enumerate(rows):
        whole = isinstance(row, list) and [len(found) for found in row if isinstance(found, list)] == widths
        if not whole or len(row) != len(widths):
            allowed = f"{len(widths)} layers of {one_of(sorted(set(widths)))} ids, as in the first row"
            raise line.refuse(f"{field} of row {index}", row, allowed)
        for item in (item for found in row for item in found):
            if type(item) is not int or not -1 <= item < MAX_EXPERTS:
                raise line.refuse(f"{field} of row {index}", item, f"integers, 0 to {MAX_EXPERTS - 1}; -1 where absent")
        for layer, found in enumerate(row):
            ids[index, layer, : len(found)] = found
    return ids


def _base64(line: Line, field: str, text: str, own: Mapping[str, Any]) -> Array:
    raw = _bytes(line, field, text)
    if raw.startswith(b"\x93NUMPY"):
        header = read_header(io.BytesIO(raw), f"{line.file}: {line.where}, {field}")
        return _array(line, field, raw[header.offset :], header.descr, header.shape, fortran=header.fortran)
    if not {"n_layers", "top_k"} <= set(own):
        raise line.refuse(field, "base64 of bare numbers", "base64 of .npy, or the options n_layers= and top_k=")
    width = 4 * own["n_layers"] * own["top_k"]
    return _array(line, field, raw, "<i4", (len(raw) // width, own["n_layers"], own["top_k"]))


def _described(line: Line, field: str, node: dict[str, Any]) -> Array:
    """Decode {"data": base64, "shape": [...], "dtype": "uint8"}."""
    shape, dtype = node.get("shape"), node.get("dtype")
    if not set(node) <= {"data", "shape", "dtype", "encoding"} or node.get("encoding", "base64") != "base64":
        raise line.refuse(f"keys of {field}", one_of(node), "data (base64), shape, dtype")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise line.refuse(f"shape of {field}", shape, "[tokens, layers, k]")
    try:
        if not isinstance(dtype, str) or len(dtype) > 40:
            raise TypeError
        descr = np.dtype(dtype.removeprefix("torch.").removeprefix("numpy.")).str
    except (TypeError, ValueError, SyntaxError):
        raise line.refuse(f"dtype of {field}", dtype, "the name of integers, such as uint8") from None
    if not isinstance(node.get("data"), str):
        raise line.refuse(f"data of {field}", node.get("data"), "base64")
    return _array(line, field, _bytes(line, field, node["data"]), descr, tuple(shape))


def _bytes(line: Line, field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise line.refuse(f"{field} ({error})", text, "base64") from None


def _array(line: Line, field: str, raw: bytes, descr: str, shape: tuple[int, ...], *, fortran: bool = False) -> Array:
    if descr not in _INTEGERS.values():
        raise line.refuse(f"dtype of {field}", named(descr), "integers, little-endian")
    if len(shape) != 3 or 0 in shape or math.prod(shape) > MAX_REQUEST_IDS:
        raise line.refuse(f"shape of {field}", shape, f"(tokens, layers, k), none of them 0, {MAX_REQUEST_IDS} ids")
    claimed = math.prod(shape) * np.dtype(descr).itemsize
    if claimed != len(raw):
        raise line.refuse(f"bytes of {field}", len(raw), f"{claimed}, as the shape {shape} needs")
    return in_c_order(np.frombuffer(raw, descr), shape, fortran=fortran)
