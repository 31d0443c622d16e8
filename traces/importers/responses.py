"""Responses of vLLM and SGLang, one per line: where their routed experts are, and how they are encoded."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import TraceError
from traces.format import MAX_EXPERTS, Array
from traces.importers.files import MAX_REQUEST_IDS, Line, check_request_size, json_lines
from traces.npy import read_header

_MAX_LINE = 2**26
_MAX_LISTS = 2**21
_MAX_ITEMS = 2**23
_MAX_INT = 2**31 - 1
_STARTS = ("routed_experts_start_len", "routed_experts_prompt_start")


def read_responses(source: Path, own: Mapping[str, Any]) -> Iterator[tuple[str, Array, int, int]]:
    """Yield per response where it is, its ids [rows, layers, k], its prompt tokens and the token of the first row.

    ``own``: n_layers and top_k, where the options give them. Raises TraceError with the line and the field.
    """
    line = Line(source.name, 0)
    for line, node in json_lines(source, _MAX_LINE, _MAX_LISTS, _MAX_ITEMS):
        places = _places(line, node)
        found = _first(places, "routed_experts")
        if found is None:
            raise line.refuse("keys", ", ".join(node), "routed_experts, itself or in meta_info or the only choice")
        ids = _decode(line, "routed_experts", found, own)
        prompt_ids = _first(places, "prompt_routed_experts")
        prompt = line.integer("prompt_tokens", _first(places, "prompt_tokens"), 0, _MAX_INT)
        if prompt_ids is not None:
            before = _decode(line, "prompt_routed_experts", prompt_ids, own)
            if len(before) != prompt or before.shape[1:] != ids.shape[1:]:
                raise line.refuse("shape of prompt_routed_experts", before.shape, f"{(prompt, *ids.shape[1:])}")
            ids = np.concatenate([before, ids])
        starts = [value for key in _STARTS if (value := _first(places, key)) is not None]
        start = line.integer("start of routed_experts", starts[0] if starts else 0, 0, prompt)
        completion = _first(places, "completion_tokens")
        if completion is not None:
            rows = prompt + line.integer("completion_tokens", completion, 1, _MAX_INT) - 1 - start
            if len(ids) != rows:
                allowed = f"{rows}: prompt_tokens + completion_tokens - 1, less those before the start"
                raise line.refuse("rows of routed_experts", len(ids), allowed)
        yield f"{source.name}: line {line.number}", ids, prompt, start
    if line.number == 0:
        raise Line(source.name, 1).refuse("content", "nothing", "at least one response")


def _places(line: Line, node: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a response in which a field may stand."""
    places = [node]
    choices = node.get("choices")
    if choices is not None:
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise line.refuse("choices", choices, "one object: with several, their prompt would count several times")
        places.append(choices[0])
    return places + [
        place[key] for place in places for key in ("meta_info", "sgl_ext", "usage") if isinstance(place.get(key), dict)
    ]


def _first(places: list[dict[str, Any]], key: str) -> Any:
    return next((place[key] for place in places if place.get(key) is not None), None)


def _decode(line: Line, field: str, value: object, own: Mapping[str, Any]) -> Array:
    if isinstance(value, list):
        ids = _nested(line, field, value)
    elif isinstance(value, str):
        ids = _base64(line, field, value, own)
    else:
        raise line.refuse(field, value, "a list [tokens][layers][k], or base64 text")
    return ids


def _nested(line: Line, field: str, rows: list[Any]) -> Array:
    """Flatten the list, if it is regular and holds nothing but small integers."""
    first = rows[0] if rows else None
    layers = len(first) if isinstance(first, list) else 0
    top_k = len(first[0]) if isinstance(first, list) and first and isinstance(first[0], list) else 0
    if not layers or not top_k:
        raise line.refuse(f"start of {field}", first, "lists [tokens][layers][k], none of them empty")
    check_request_size(line.file, len(rows), layers, top_k)
    ids = np.empty((len(rows), layers, top_k), np.int32)
    for index, row in enumerate(rows):
        regular = isinstance(row, list) and len(row) == layers
        if not regular or any(not isinstance(ids_of, list) or len(ids_of) != top_k for ids_of in row):
            raise line.refuse(f"{field} of row {index}", row, f"{layers} layers of {top_k} ids, as in the first row")
        for item in (item for ids_of in row for item in ids_of):
            line.integer(f"{field} of row {index}", item, 0, MAX_EXPERTS - 1)
        ids[index] = row
    return ids


def _base64(line: Line, field: str, text: str, own: Mapping[str, Any]) -> Array:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise line.refuse(f"{field} ({error})", text, "base64") from None
    if raw.startswith(b"\x93NUMPY"):
        stream = io.BytesIO(raw)
        try:
            header = read_header(stream, field)
        except TraceError as error:
            raise line.refuse(field, "not a .npy file", str(error)) from None
        descr, shape, offset = header.descr, header.shape, header.offset
    else:
        if not {"n_layers", "top_k"} <= set(own):
            raise line.refuse(field, "base64 of bare numbers", "base64 of .npy, or the options n_layers= and top_k=")
        width = 4 * own["n_layers"] * own["top_k"]
        descr, shape, offset = "<i4", (len(raw) // width, own["n_layers"], own["top_k"]), 0
    if descr not in ("|u1", "|i1", "<u2", "<i2", "<i4", "<u4", "<i8", "<u8"):
        raise line.refuse(f"dtype of {field}", descr, "integers")
    if len(shape) != 3 or 0 in shape or math.prod(shape) > MAX_REQUEST_IDS:
        raise line.refuse(f"shape of {field}", shape, f"(tokens, layers, k), none of them 0, {MAX_REQUEST_IDS} ids")
    claimed = offset + math.prod(shape) * np.dtype(descr).itemsize
    if claimed != len(raw):
        raise line.refuse(f"bytes of {field}", len(raw), f"{claimed}, as the shape {shape} needs")
    return np.frombuffer(raw, descr, offset=offset).reshape(shape)
