"""The journal of an unfinished recording: what it records, and how much of every file counts."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from traces.format.manifest import Counts
from traces.kit.errors import TraceError, one_of, refusal, shown
from traces.kit.strict import dump_json, load_json
from traces.kit.whole import JOURNAL, publish

NEXT_JOURNAL = f"{JOURNAL}.new"
_SCHEMA = 1
_MAX_BYTES = 16 * 2**20
_MAX_INT = 2**62
_ABSENT = object()


@dataclass(frozen=True)
class Mark:
    """How much of a file counts: its length, and the CRC-32 of all that follows its head."""

    bytes: int
    crc32: int


@dataclass(frozen=True)
class Checkpoint:
    """Where a recording goes on: what it holds, and the mark of every file by name."""

    counts: Counts
    files: Mapping[str, Mark]


def damaged(place: Path, field: str, value: object, allowed: str) -> TraceError:
    """Build the error of a recording that cannot be gone on with: ``place`` is its folder."""
    return refusal(f"{place} is damaged", field, value, f"{allowed}; or a new recording, once that folder is removed")


def as_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``facts`` as the journal gives them back; raises TypeError or ValueError for what is not JSON."""
    facts = load_json(json.dumps(facts, allow_nan=False).encode("ascii"))
    if not isinstance(facts, dict):
        raise TypeError("facts are a mapping")
    return facts


def write_journal(place: Path, facts: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Replace the journal of folder ``place`` at once; it survives a power cut as soon as this returns."""
    document = {"schema": _SCHEMA, "facts": facts, **asdict(checkpoint)}
    raw = dump_json(document).encode("ascii")
    if len(raw) > _MAX_BYTES:
        raise refusal(str(place), "size of the journal", f"{len(raw)} bytes", f"at most {_MAX_BYTES}: a smaller recipe")
    (place / NEXT_JOURNAL).write_bytes(raw)
    publish(place / NEXT_JOURNAL, place / JOURNAL)


def read_journal(place: Path, facts: Mapping[str, Any], files: Collection[str]) -> Checkpoint:
    """Return the last checkpoint of the recording in folder ``place``.

    Raises TraceError for a journal that is not of these ``facts`` (see as_json), naming the first that differs,
    or whose content nobody could have written for these ``files``.
    """
    try:
        with open_regular(place / JOURNAL, os.O_RDONLY) as stream:
            raw = stream.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        document = load_json(raw)
    except (OSError, ValueError) as error:
        raise damaged(place, JOURNAL, str(error), "JSON as the recorder writes it") from None
    _need(place, "document", document, ("schema", "facts", "counts", "files"))
    if document["schema"] is True or document["schema"] != _SCHEMA:
        raise damaged(place, f"{JOURNAL}, schema", document["schema"], str(_SCHEMA))
    for key, here, there in _differences(facts, document["facts"]):
        raise TraceError(
            f"{place}: {shown(key)[1:-1]} is {here}, but {there} in the recording that was begun there; "
            "allowed: the command that began it, or a new recording, once that folder is removed"
        )
    names = tuple(Counts.__dataclass_fields__)
    counts = _need(place, "counts", document["counts"], names)
    marks = _need(place, "files", document["files"], tuple(files))
    for name, mark in marks.items():
        _need(place, f"files.{name}", mark, tuple(Mark.__dataclass_fields__))
    return Checkpoint(
        Counts(*(_whole(place, f"counts.{name}", counts[name]) for name in names)),
        {
            name: Mark(
                _whole(place, f"files.{name}.bytes", marks[name]["bytes"]),
                _whole(place, f"files.{name}.crc32", marks[name]["crc32"]),
            )
            for name in files
        },
    )


def open_regular(path: Path, flags: int) -> BinaryIO:
    """Open a file that exists; raises OSError for a link or a pipe: one could lead out, the other hang."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("not a regular file")
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags), "r+b" if flags & os.O_RDWR else "rb")


def _differences(here: object, there: object, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the leaves in which two JSON values differ: the path to each, and both values for a message."""
    if isinstance(here, dict) and isinstance(there, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            # The caller's own keys need no prefix of ours.
            path = name if key in ("", "recipe") else f"{key}.{name}"
            yield from _differences(here.get(name, _ABSENT), there.get(name, _ABSENT), path)
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for index, (one, other) in enumerate(zip(here, there, strict=True)):
            yield from _differences(one, other, f"{key}[{index}]")
    elif isinstance(here, list) and isinstance(there, list):
        yield f"length of {key}", str(len(here)), str(len(there))
    elif type(here) is not type(there) or here != there:
        one, other = ("absent" if value is _ABSENT else shown(value) for value in (here, there))
        yield key, one, other


def _need(place: Path, field: str, value: object, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        found = f"keys {one_of(value)}" if isinstance(value, dict) else value
        raise damaged(place, f"{JOURNAL}, {field}", found, f"exactly the keys {one_of(keys)}")
    return value


def _whole(place: Path, field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_INT:
        raise damaged(place, f"{JOURNAL}, {field}", value, "an integer, at least 0")
    return value
