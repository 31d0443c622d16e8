"""JSON of strangers, strictly: unique keys, finite numbers; and long arrays of objects, read piece by piece.

Of an array, however long, memory holds a block of the file and the object being read.
"""

from __future__ import annotations

import codecs
import json
import re
import stat
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from traces.kit.errors import TraceError, UserError, one_of

MAX_RECORD = 2**26
"""Characters of one object, or bytes of one line: more is no prompt, and would have to fit into memory."""
_BLOCK = 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = 16  # longer than what a cut can leave of a number's exponent, a constant or an escape


def load_json(raw: bytes) -> Any:
    """Parse ``raw``, UTF-8 without a byte order mark; raises ValueError with one reason for whatever is wrong."""
    try:
        return json.loads(raw.decode("utf-8"), **_HOOKS)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump_json(document: object) -> str:
    """Write ``document`` as people read it; raises ValueError for NaN and infinities."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError(f"a key that occurs twice among {one_of(key for key, _ in pairs)}")
    return keys


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


_HOOKS: dict[str, Any] = {
    "object_pairs_hook": _no_duplicates,
    "parse_constant": _no_constant,
    "parse_float": _finite,
}
DECODER = json.JSONDecoder(**_HOOKS)
"""As strict as load_json, for text that is read piece by piece."""


def open_source(source: Path, kind: str) -> BinaryIO:
    """Open a regular file; a pipe or a device could hang or never end. Links are followed: the user named them."""
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise TraceError(f"{source}: not a regular file; allowed: a readable {kind} file")
        return source.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{source}: {reason}; allowed: a readable {kind} file") from None


def json_array(path: Path, block: int = _BLOCK) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of the array in `path` with their numbers, from 1; the file is read `block` bytes at a time.

    Raises UserError with line and column for what is not one array of objects in strict JSON (traces.kit.strict).
    """
    with open_source(path, "JSON") as stream:
        text = _Text(path.name, stream, block)
        if text.peek() != "[":
            raise text.fault("no array begins here (JSON lines go by the suffix .jsonl)")
        for number, (_, record) in enumerate(_array(text), start=1):
            yield number, record


def json_objects(stream: BinaryIO, name: str, lists: int, items: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of one array, or those that stand one after the other, with the lines where they begin.

    ``lists`` and ``items``: about how many lists and items one object may have. Raises UserError as json_array does.
    """
    text = _Text(name, stream, _BLOCK, {"[": lists, ",": items, "{": 2**19}, "JSON objects, or one array of them")
    if text.peek() == "[":
        yield from _array(text)
        return
    while text.peek():
        yield _object(text)


def _array(text: _Text) -> Iterator[tuple[int, dict[str, Any]]]:
    text.at += 1
    if text.peek() != "]":
        yield _object(text)
        while text.peek() == ",":
            text.at += 1
            text.peek()
            yield _object(text)
    if text.peek() != "]":
        raise text.fault("a comma or the array's end is expected here")
    text.at += 1
    if text.peek():
        raise text.fault("the array has ended before")


def _object(text: _Text) -> tuple[int, dict[str, Any]]:
    if text.peek() != "{":
        raise text.fault("an object is expected here")
    line, _ = text.place(text.at)
    return line, text.decode_object()


class _Text:
    """The characters of a file, decoded block by block. `at`: where we are in `text`; what was before is let go."""

    def __init__(
        self,
        name: str,
        stream: BinaryIO,
        block: int,
        most: Mapping[str, int] | None = None,
        allowed: str = "one JSON array of objects",
    ) -> None:
        self.text, self.at = "", 0
        self._name, self._stream, self._block = name, stream, block
        self._most, self._allowed = most or {}, allowed
        self._line, self._column = 1, 1  # of text[0]
        self._bytes = 0
        self._broken: UserError | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def peek(self) -> str:
        """Go to the next character that is no white space and return it; "" at the end of the file."""
        while True:
            if space := _SPACE.match(self.text, self.at):
                self.at = space.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def decode_object(self) -> Any:
        """Decode the object that begins here, reading on while it may merely be cut off."""
        while True:
            # What has been read may go on behind the object, by no more than the object's own length.
            for sign, most in self._most.items() if len(self.text) - self.at > _BLOCK else ():
                if self.text.count(sign, self.at) > 2 * most + _BLOCK:
                    raise self.fault(f"an object with over {most} times {sign}")
            try:
                value, self.at = DECODER.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                cut = error.pos > len(self.text) - _TOKEN or error.msg.startswith("Unterminated string")
                if cut and len(self.text) - self.at > MAX_RECORD:
                    raise self.fault(f"an object of over {MAX_RECORD} characters") from None
                if not cut or not self._more():
                    raise self.fault(error.msg, error.pos) from None
            except RecursionError:
                raise self.fault("nested too deeply") from None
            except ValueError as error:
                raise self.fault(str(error)) from None

    def fault(self, what: str, at: int | None = None) -> UserError:
        """Build the error for position `at` of the text, by default the present one."""
        line, column = self.place(self.at if at is None else at)
        return UserError(f"{self._name}, line {line}, column {column}: {what}; allowed: {self._allowed}")

    def place(self, at: int) -> tuple[int, int]:
        """The line and the column of a position."""
        breaks = self.text.count("\n", 0, at)
        last = self.text.rfind("\n", 0, at)
        return self._line + breaks, at - last if breaks else self._column + at

    def _more(self) -> bool:
        """Read on; False at the end. Twice as much each time for one object, so that its cost stays linear."""
        if self._broken:
            raise self._broken
        waiting = len(self._decoder.getstate()[0])
        try:
            raw = self._stream.read(max(self._block, len(self.text) - self.at))
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            # What stands before the bad byte comes first, as it would if a block ended there.
            place = self._bytes - waiting + error.start
            self._broken = UserError(f"{self._name}, byte {place}: {error.reason}; allowed: UTF-8")
            text = error.object[: error.start].decode()
        except OSError as error:
            raise UserError(f"{self._name}: {error.strerror}; allowed: a readable JSON file") from None
        if not raw and not self._broken:
            return False
        self._bytes += len(raw)
        self._line, self._column = self.place(self.at)
        self.text, self.at = self.text[self.at :] + text, 0
        return True
