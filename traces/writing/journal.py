"""The journal of an unfinished recording: what it records, and how much of every file counts."""

import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from traces.format.manifest import Counts
from traces.kit.errors import TraceError, refusal, shown
from traces.kit.fields import Fields
from traces.kit.strict import dump_json, load_json
from traces.kit.whole import JOURNAL, publish

NEXT_JOURNAL = f"{JOURNAL}.new"
_SCHEMA = 1
_MAX_BYTES = 16 * 2**20
_OR_ANEW = "; or a new recording, once that folder is removed"
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
    return refusal(f"{place} is damaged", field, value, f"{allowed}{_OR_ANEW}")


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
    fields = Fields(f"{place} is damaged: {JOURNAL}")
    count = partial(fields.integer, minimum=0)
    try:
        with open_regular(place / JOURNAL, os.O_RDONLY) as stream:
            raw = stream.read(_MAX_BYTES + 1)
        document = fields.document(raw, _SCHEMA, ("facts", "counts", "files"), _MAX_BYTES)
        for key, here, there in _differences(facts, document["facts"]):
            found = f"{shown(key)[1:-1]} is {here}, but {there} in the recording that was begun there"
            raise TraceError(f"{place}: {found}; allowed: the command that began it")
        counts = fields.record(Counts, document["counts"], "counts", requests=count, steps=count, tokens=count)
        marks = fields.exactly(document["files"], "files", tuple(files))
        mark = partial(fields.record, Mark, bytes=count, crc32=count)
        return Checkpoint(counts, fields.mapping(marks, "files", mark))
    except OSError as error:
        raise damaged(place, JOURNAL, str(error), "a file as the recorder writes it") from None
    except TraceError as error:
        raise TraceError(f"{error}{_OR_ANEW}") from None


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
