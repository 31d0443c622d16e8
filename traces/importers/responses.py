"""Responses of vLLM and SGLang: where their routed experts are, and of which tokens they are.

A line is a response; or a part of one, when consecutive parts with one ``id`` come from a stream (the last parts have
the routing and the usage); or a line of a batch's output file, whose ``response.body`` is the response.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers.encodings import decode
from traces.importers.files import Line, json_lines
from traces.importers.found import Found
from traces.importers.span import Counts, placed

_MAX_LINE, _MAX_LISTS, _MAX_ITEMS = 2**26, 2**21, 2**23
_MAX_INT = 2**31 - 1
_MAX_IDS = 2**20
_STARTS = ("routed_experts_start_len", "routed_experts_prompt_start")
_INSIDE = ("meta_info", "sgl_ext", "usage", "prompt_tokens_details", "input_tokens_details")


@dataclass(frozen=True)
class _Response:
    """A response: the objects in which a field may stand, with the line where it ends."""

    line: Line
    places: list[dict[str, Any]]

    def first(self, *keys: str) -> Any:
        """Return the first value of any of these keys that is not null."""
        return next((place[key] for key in keys for place in self.places if place.get(key) is not None), None)

    def count(self, low: int, high: int, *keys: str, ids: tuple[str, ...] = ()) -> int | None:
        """Return a number of tokens: stated under a key, or the length of a list of token ids; None: not stated."""
        value = self.first(*keys)
        if value is None:
            listed = self.first(*ids)
            value = len(listed) if isinstance(listed, list) else None
        return None if value is None else self.line.integer(keys[0], value, low, high)


def read_responses(source: Path, own: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the responses; raises TraceError with the line and the field.

    ``own``: n_layers and top_k, where the options give them.
    """
    empty = True
    for response in _responses(source):
        empty = False
        yield _found(response, own)
    if empty:
        raise Line(source.name, 1).refuse("content", "nothing", "at least one response")


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
    prompt = response.count(0, _MAX_INT, "prompt_tokens", "input_tokens", ids=("prompt_token_ids", "prompt_ids"))
    if prompt is None:
        raise line.refuse("prompt_tokens", None, "how many tokens the prompt has")
    names = ("completion_tokens", "output_tokens")
    completion = response.count(0, _MAX_INT, *names, ids=("token_ids", "output_ids", "completion_token_ids"))
    cached = response.count(0, prompt, "cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens")
    counts = Counts(prompt, completion, cached, response.count(0, prompt, *_STARTS))
    where = f"{line.file}: {line.where}"
    if before is None:
        return placed(where, line.refuse, decode(line, "routed_experts", routed, own), counts)
    ahead = decode(line, "prompt_routed_experts", before, own)
    rest = ahead[:0] if routed in (None, []) else decode(line, "routed_experts", routed, own)
    known = {prompt - (left_out or 0) for left_out in (0, cached, counts.start)}
    if len(ahead) not in known or ahead.shape[1:] != rest.shape[1:]:
        raise line.refuse("shape of prompt_routed_experts", ahead.shape, f"{(prompt, *rest.shape[1:])}")
    if completion is not None and not completion - 1 <= len(rest) <= completion:
        raise line.refuse("rows of routed_experts", len(rest), f"{completion} (completion_tokens), or one fewer")
    return placed(where, line.refuse, np.concatenate([ahead, rest]), counts, prompt - len(ahead))


def _responses(source: Path) -> Iterator[_Response]:
    """Yield whole responses, the parts of a stream put together."""
    seen: set[int] = set()
    parts: list[tuple[Line, dict[str, Any]]] = []
    for line, raw in json_lines(source, _MAX_LINE, _MAX_LISTS, _MAX_ITEMS):
        node = _body(line, raw)
        if parts and (_name(node) is None or _name(node) != _name(parts[-1][1])):
            yield _joined(parts, seen)
            parts = []
        # What a stream repeats in each part is not kept.
        parts.append((line, node))
        if len(parts) > 2 and not _has_routing(parts[-2][1]):
            del parts[-2]
    if parts:
        yield _joined(parts, seen)


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
    """The objects of a response in which a field may stand."""
    places = [node]
    choices = _choices(node)
    if choices is not None and choices != []:
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise line.refuse("choices", choices, "one object: with several, their prompt would count several times")
        places.append(choices[0])
    for place in places:
        places += [place[key] for key in _INSIDE if isinstance(place.get(key), dict)]
    return places
