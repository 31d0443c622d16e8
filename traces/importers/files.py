"""Sources from strangers: regular files, lines of bounded length, strict JSON, and errors that name the line."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from traces.errors import TraceError
from traces.format import MAX_EXPERTS, refusal, shown
from traces.strict import load_json

MAX_REQUEST_IDS = 2**24
"""The most expert ids of one request, which is what an importer holds in memory."""


def open_source(source: Path, kind: str) -> BinaryIO:
    """Open a regular file; a pipe or a device could hang or never end. Links are followed: the user named them."""
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise TraceError(f"{source}: not a regular file; allowed: a readable {kind} file")
        return source.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{source}: {reason}; allowed: a readable {kind} file") from None


def check_request_size(file: str, rows: int, n_layers: int, top_k: int) -> None:
    """Refuse a request whose ids would not fit into memory."""
    if rows * n_layers * top_k > MAX_REQUEST_IDS:
        found = f"{rows} tokens x {n_layers} layers x {top_k} slots"
        raise refusal(file, "one request", found, f"at most {MAX_REQUEST_IDS} ids")


def round_experts(largest: int) -> int:
    """Return E where nobody says it: rounded up to a multiple of 4, lest the last experts were never chosen."""
    return min(-(-(largest + 1) // 4) * 4, MAX_EXPERTS)


@dataclass(frozen=True)
class Line:
    """One line of a file, for errors and for typed access to the values in it."""

    file: str
    number: int

    def refuse(self, field: str, value: object, allowed: str) -> TraceError:
        """Build the error for a field of this line."""
        return refusal(self.file, f"line {self.number}, {field}", value, allowed)

    def integer(self, field: str, value: object, low: int, high: int) -> int:
        """Return ``value`` if it is an integer from ``low`` to ``high``."""
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(field, value, f"an integer, {low} to {high}")
        return value

    def items(self, field: str, value: object, most: int) -> list[Any]:
        """Return ``value`` if it is a list of 1 to ``most`` items."""
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.refuse(field, value, f"a list of 1 to {most} items")
        return value

    def ids(self, field: str, value: object, n_experts: int) -> list[int]:
        """Return ``value`` if it is a list of distinct ids of ``n_experts`` experts."""
        ids = self.items(field, value, n_experts)
        for item in ids:
            self.integer(field, item, 0, n_experts - 1)
        if len(set(ids)) < len(ids):
            raise self.refuse(field, value, "an expert at most once per token and layer")
        return ids

    def weights(self, field: str, value: object, length: int) -> list[float]:
        """Return ``value`` if it is a list of ``length`` finite weights."""
        weights = self.items(field, value, length)
        for item in weights:
            if type(item) not in (int, float) or not (0 <= item <= 65504 and math.isfinite(item)):
                raise self.refuse(field, item, "numbers that float16 holds, at least 0")
        if len(weights) != length:
            raise self.refuse(f"length of {field}", len(weights), f"{length}, as many as ids")
        return weights


def text_lines(source: Path, kind: str, most: int) -> Iterator[tuple[Line, bytes]]:
    """Yield the lines without their ends; a line of more than ``most`` bytes is refused."""
    with open_source(source, kind) as stream:
        try:
            for number, raw in enumerate(iter(lambda: stream.readline(most + 1), b""), start=1):
                line = Line(source.name, number)
                if len(raw) > most:
                    raise line.refuse("length", f"over {most} bytes", f"at most {most} bytes")
                yield line, raw.rstrip(b"\r\n")
        except OSError as error:
            raise TraceError(f"{source}: {error.strerror}; allowed: a readable {kind} file") from None


def json_lines(source: Path, most: int = 2**20, lists: int = 2**18, items: int = 2**18) -> Iterator[tuple[Line, Any]]:
    """Yield the objects of a JSON Lines file, of which a line has at most so many lists and items."""
    for line, raw in text_lines(source, "JSON Lines", most):
        try:
            document = bounded_json(raw, lists, items)
        except ValueError as error:
            raise line.refuse("content", str(error), "one JSON object with unique keys") from None
        if not isinstance(document, dict):
            raise line.refuse("content", shown(document), "one JSON object with unique keys")
        yield line, document


def bounded_json(raw: bytes, lists: int, items: int) -> Any:
    """Parse JSON of bounded cost: a list takes some 60 bytes in memory, a string or an object more.

    Raises ValueError.
    """
    for sign, limit in (("[", lists), ("{", 2**19), (",", items)):
        if raw.count(sign.encode()) > limit:
            raise ValueError(f"over {limit} times {sign}")
    return load_json(raw)
