"""Responses of vLLM and SGLang: where their routed experts are, how they are written, and of which tokens they are.

A line is a response; or a part of one, when consecutive parts with one ``id`` come from a stream (the last parts have
the routing and the usage); or a line of a batch's output file, whose ``response.body`` is the response. The array
[tokens, layers, k] of ids is written as nested lists, or as base64 of .npy or of bare numbers.

A server has a row for each token that it fed to the model, but some leave out the prefix that was in their cache, some
the prompt. Which one it is follows from the counts of tokens, or is refused: a guess would shift every row.
"""

import base64
import binascii
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.format.npy import in_c_order, named, read_header
from traces.importers.files import MAX_REQUEST_IDS, Line, check_request_size, json_lines
from traces.importers.found import Found
from traces.kit.errors import TraceError, one_of

_MAX_LINE, _MAX_LISTS, _MAX_ITEMS = 2**26, 2**21, 2**23
_MAX_INT = 2**31 - 1
_MAX_IDS = 2**20
_STARTS = ("routed_experts_start_len", "routed_experts_prompt_start")
_INSIDE = ("meta_info", "sgl_ext", "usage", "prompt_tokens_details", "input_tokens_details")
_INTEGERS = {"u1": "|u1", "i1": "|i1", **{kind: f"<{kind}" for kind in ("u2", "i2", "u4", "i4", "u8", "i8")}}
Refuse = Callable[[str, object, str], TraceError]


@dataclass(frozen=True)
class Counts:
    """Tokens of one request as stated; None: not stated.

    ``prompt`` and ``completion``; ``cached``: those of the prompt that the server had in its cache; ``start``: the
    token of the first row, where earlier ones were left out on demand.
    """

    prompt: int
    completion: int | None = None
    cached: int | None = None
    start: int | None = None


def placed(where: str, refuse: Refuse, ids: Array, counts: Counts, first: int | None = None) -> Found:
    """Return the request whose rows are ``ids`` [n, L, K]; ``first``: the token of the first row, where it is known.

    Tokens that the server had in its cache are context, whether they have rows or not.
    """
    prompt, completion = counts.prompt, counts.completion
    first = _first_token(refuse, ids, counts) if first is None else first
    # The token that was generated last may have a row, though it was never fed: a recorder filled it.
    if completion and first + len(ids) == prompt + completion and _is_blank(ids[-1]):
        ids = ids[:-1]
    skipped = min(max(0, (counts.cached or 0) - first), len(ids))
    prefill = min(max(0, prompt - first - skipped), len(ids) - skipped)
    return Found(where, ids[skipped:], prefill, first + skipped, prompt, completion, first_row=skipped)


def _is_blank(row: Array) -> bool:
    """Say whether a row [layers, k] stands for nothing: -1 alone, or zeros where a token has several experts."""
    return bool((row < 0).all() or ((row == 0).all() and row.size > row.shape[0]))


def _first_token(refuse: Refuse, ids: Array, counts: Counts) -> int:
    """Return which token the first row is of: the first one, or the one after a prefix that was left out."""
    rows, prompt, completion, cached = len(ids), counts.prompt, counts.completion, counts.cached
    if completion is not None:
        starts = [counts.start] if counts.start is not None else [0, *([cached] if cached else []), prompt]
        for unfed, first in product((1, 0), starts):
            if rows == prompt + completion - unfed - first:
                return first
        said = f"rows of routed_experts (prompt_tokens {prompt}, completion_tokens {completion})"
        hint = "less what cached_tokens or routed_experts_start_len says was left out"
        if rows > prompt + completion:
            hint = "rows of drafts (speculative decoding) or of another request cannot be told from the tokens'"
        usual = f"{prompt + completion - 1}: prompt_tokens + completion_tokens - 1, or one more"
        raise refuse(said, rows, f"{usual}; {hint}")
    first = counts.start if counts.start is not None else cached if cached is not None and rows < prompt else 0
    known = counts.start is not None or cached == 0 or rows < prompt
    if cached and not known:
        known = all(_is_blank(row) for row in ids[:cached])
    if (cached is None and counts.start is None) or not known:
        why = "else rows of a cached prefix that the server left out would shift all others unseen"
        raise refuse("completion_tokens", None, f"how many tokens were generated: {why} (cached_tokens 0 will do, too)")
    if not first <= prompt <= first + rows:
        raise refuse("prompt_tokens", prompt, f"{first} to {first + rows}, the rows that are there")
    return first


@dataclass(frozen=True)
class _Response:
    """A response: the objects in which a field may stand, with the line where it ends."""

    line: Line
    places: list[dict[str, Any]]

    def first(self, *keys: str) -> Any:
        """Return the first value of any of these keys that is not null."""
        return next((place[key] for key in keys for place in self.places if place.get(key) is not None), None)

    def count(self, most: int, *keys: str, ids: tuple[str, ...] = ()) -> int | None:
        """Return a number of tokens: stated under a key, or the length of a list of token ids; None: not stated."""
        value = self.first(*keys)
        if value is None and isinstance(listed := self.first(*ids), list):
            value = len(listed)
        return None if value is None else self.line.integer(keys[0], value, 0, most)


def _found(response: _Response, own: Mapping[str, Any]) -> Found:
    line = response.line
    routed, before = response.first("routed_experts"), response.first("prompt_routed_experts")
    if routed is None and before is None:
        node, hint = response.places[0], ""
        if {"token", "layer", "ids"} <= set(node):
            hint = "; such lines are read by import jsonl"
        elif _name(node):
            hint = "; the parts of one stream follow each other"
        allowed = f"routed_experts, itself or in meta_info or the only choice{hint}"
        raise line.refuse("keys", ", ".join(node), allowed)
    prompt = response.count(_MAX_INT, "prompt_tokens", "input_tokens", ids=("prompt_token_ids", "prompt_ids"))
    if prompt is None:
        raise line.refuse("prompt_tokens", None, "how many tokens the prompt has")
    names = ("completion_tokens", "output_tokens")
    completion = response.count(_MAX_INT, *names, ids=("token_ids", "output_ids", "completion_token_ids"))
    cached = response.count(prompt, "cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens")
    counts = Counts(prompt, completion, cached, response.count(prompt, *_STARTS))
    where = f"{line.file}: {line.where}"
    if before is None:
        return placed(where, line.refuse, _decode(line, "routed_experts", routed, own), counts)
    ahead = _decode(line, "prompt_routed_experts", before, own)
    rest = ahead[:0] if routed in (None, []) else _decode(line, "routed_experts", routed, own)
    known = {prompt - (left_out or 0) for left_out in (0, cached, counts.start)}
    if len(ahead) not in known or ahead.shape[1:] != rest.shape[1:]:
        raise line.refuse("shape of prompt_routed_experts", ahead.shape, f"{(prompt, *rest.shape[1:])}")
    if completion is not None and not completion - 1 <= len(rest) <= completion:
        raise line.refuse("rows of routed_experts", len(rest), f"{completion} (completion_tokens), or one fewer")
    return placed(where, line.refuse, np.concatenate([ahead, rest]), counts, prompt - len(ahead))


def read_responses(source: Path, own: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the responses, the parts of a stream put together; ``own`` may have n_layers and top_k."""
    seen: set[int] = set()
    parts: list[tuple[Line, dict[str, Any]]] = []
    for line, raw in json_lines(source, _MAX_LINE, _MAX_LISTS, _MAX_ITEMS):
        node = _body(line, raw)
        if parts and (_name(node) is None or _name(node) != _name(parts[-1][1])):
            yield _found(_joined(parts, seen), own)
            parts = []
        # What a stream repeats in each part is not kept.
        parts.append((line, node))
        if len(parts) > 2 and not _has_routing(parts[-2][1]):
            del parts[-2]
    if parts:
        yield _found(_joined(parts, seen), own)


def _body(line: Line, node: dict[str, Any]) -> dict[str, Any]:
    """Return the response in a line of a batch's output, or the line itself; refuses what tells of a fault."""
    response = node.get("response")
    if isinstance(response, dict) and isinstance(response.get("body"), dict) and not node.get("error"):
        node = response["body"]
    error = node.get("error") or (node if node.get("object") == "error" else None)
    if error:
        found = error.get("message", error) if isinstance(error, dict) else error
        raise line.refuse("error", found, "answers: take failed requests out")
    return node


def _name(node: dict[str, Any]) -> object:
    meta = node.get("meta_info")
    found = node.get("id", meta.get("id") if isinstance(meta, dict) else None)
    return found if isinstance(found, str) and found else None


def _choices(node: dict[str, Any]) -> Any:
    """Return what a server calls choices, and vLLM's offline engine outputs."""
    return node.get("choices", node.get("outputs"))


def _has_routing(node: dict[str, Any]) -> bool:
    choices = _choices(node)
    places = [place for place in (node, *(choices if isinstance(choices, list) else ())) if isinstance(place, dict)]
    inside = [place.get(key) for place in places for key in ("meta_info", "sgl_ext")]
    return any(isinstance(place, dict) and place.get("routed_experts") is not None for place in places + inside)


def _joined(parts: list[tuple[Line, dict[str, Any]]], seen: set[int]) -> _Response:
    """Put the parts of one response together: what the last ones say goes first."""
    line = parts[-1][0]
    routed = [part for part in parts if _has_routing(part[1])]
    name = _name(parts[0][1])
    if len(routed) > 1 or (name is not None and hash(name) in seen):
        raise routed[-1][0].refuse("id", name, "each response once") if routed else line.refuse("id", name, "once")
    if name is not None and len(seen) < _MAX_IDS:
        seen.add(hash(name))
    places = [place for at, node in reversed(parts) for place in _places(at, node)]
    return _Response(routed[0][0] if routed else line, places)


def _places(line: Line, node: dict[str, Any]) -> list[dict[str, Any]]:
    places = [node]
    choices = _choices(node)
    if choices is not None and choices != []:
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise line.refuse("choices", choices, "one object: with several, their prompt would count several times")
        places.append(choices[0])
    for place in places:
        places += [place[key] for key in _INSIDE if isinstance(place.get(key), dict)]
    return places


def _decode(line: Line, field: str, value: object, own: Mapping[str, Any]) -> Array:
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
        for layer, found in enumerate(row):
            ids[index, layer, : len(found)] = line.ids(f"{field} of row {index}", found, ids.shape[2], MAX_EXPERTS)
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
