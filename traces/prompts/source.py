"""The prompts to record, read from a file one at a time: each a request or several, for training or for testing."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from traces.format.npy import hash_stream
from traces.importers.files import open_source, plain_lines
from traces.kit.errors import UserError, one_of, shown
from traces.kit.strict import MAX_RECORD, json_array, load_json
from traces.prompts.records import CHATS, KEYS, SPLITS, Prompt, parse_record

TRAIN, TEST, OPEN = 0, 1, 2
_ROWS = 256
_BUFFER = 1 << 16
Records = Iterator[tuple[str, Any]]


class PromptFile:
    """The requests of a file, streamed: each pass over them reads the file again, a block at a time.

    `limit`: the first so many prompts that can be used; 0: all. `split`: the share of the prompts, per source, that are
    for training, drawn with `seed` where a record states none. `samples`: requests per prompt, in a row and in the same
    split, lest what is tested was trained on. `turn`: which assistant turn of a chat is its answer, "first" or "last".

    Building it checks every record that is used, so that a recording of hours does not end at a bad line: UserError
    with file and line; also for a file without a prompt, and for one that a later pass finds changed. Then `skipped`
    counts the chats that were passed over since no user speaks before the answer (whoever records must say it), and
    `stating_length` the prompts with a `max_new_tokens` of their own, which goes before the one for all. `sha256` is
    of the file's bytes, `licences` are those that records state, sorted, and `settings` what it was built with.

    Memory: 1 byte per prompt, 5 while the splits are drawn, and one text per distinct source and licence.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit: int = 0,
        split: float = 0.7,
        seed: int = 0,
        samples: int = 1,
        turn: str = "first",
    ) -> None:
        self._path, self._limit, self._samples, self._turn = path, limit, samples, turn
        self.settings = {"limit": limit, "split": split, "split_seed": seed, "samples": samples, "turn": turn}
        self._state = self._stat()
        self.name = path.name
        with open_source(path, "prompts") as stream:
            self.sha256 = hash_stream(stream)
        self.skipped = self.stating_length = 0
        self._splits = bytearray()
        undecided: dict[str, array[int]] = {}
        licences: set[str] = set()
        for record in self._records():
            if record is None:
                self.skipped += 1
                continue
            if record.split is None:
                undecided.setdefault(record.source, array("I")).append(len(self._splits))
            self.stating_length += record.max_new_tokens is not None
            if record.licence:
                licences.add(record.licence)
            self._splits.append(OPEN if record.split is None else SPLITS.index(record.split))
        self._check_unchanged()
        if not self._splits:
            passed = f" ({self.skipped} chats in which no user speaks before the answer)" if self.skipped else ""
            raise UserError(f"prompts={str(path)!r} holds no prompt{passed}")
        draw_splits(self._splits, undecided, split, seed)
        self.licences = tuple(sorted(licences))

    def __len__(self) -> int:
        """The number of requests: prompts times samples."""
        return len(self._splits) * self._samples

    def __iter__(self) -> Iterator[Prompt]:
        """All requests in the order of the file."""
        return self.after(0)

    def after(self, first: int) -> Iterator[Prompt]:
        """The requests from number `first` on, just as a whole pass would yield them."""
        self._check_unchanged()
        try:
            usable = (record for record in self._records() if record is not None)
            for index, (record, split) in enumerate(zip(usable, self._splits, strict=False)):
                for number in range(index * self._samples, (index + 1) * self._samples):
                    if number >= first:
                        yield replace(record, number=number, split=SPLITS[split])
        except UserError:
            self._check_unchanged()  # a file that is being written to looks malformed
            raise
        self._check_unchanged()

    def _records(self) -> Iterator[Prompt | None]:
        """The records up to the limit; None for a chat that is passed over."""
        used = 0
        for where, content in read_records(self._path):
            record = parse_record(where, content, self._path.stem, self._turn)
            yield record
            used += record is not None
            if used == self._limit != 0:
                return

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._stat() != self._state:
            raise UserError(f"prompts={str(self._path)!r} has changed while it was in use; allowed: the same bytes")


def draw_splits(splits: bytearray, undecided: Mapping[str, array[int]], share: float, seed: int) -> None:
    """Replace every OPEN entry of `splits` [prompts] by TRAIN or TEST, in place.

    `undecided`: per source the indices of its OPEN entries, ascending; they are shuffled. Of n of them
    round(share * n) are for training. Where rounding, source by source, would leave no test prompt at all,
    one of the OPEN ones, drawn at random, is for testing.
    """
    trains = {source: round(share * len(indices)) for source, indices in undecided.items()}
    total = sum(map(len, undecided.values()))
    lone: int | None = None
    if total == sum(trains.values()) and total and TEST not in splits and share < 1 and len(splits) > 1:
        place = random.Random(seed).choice(range(total))
        lone = next(islice((i for i, split in enumerate(splits) if split == OPEN), place, None))
    for source, indices in undecided.items():
        random.Random(f"{seed} {source}").shuffle(indices)
        for place, index in enumerate(indices):
            splits[index] = TRAIN if place < trains[source] else TEST
    if lone is not None:
        splits[lone] = TEST


def read_records(path: Path) -> Records:
    """Yield where a record stands ("chats.jsonl, line 12"), and what it says; UserError for what cannot be read.

    The suffix tells the kind: `.jsonl`, one value per line; `.json`, one array; `.parquet`, a table; any other is text,
    one prompt per line, in UTF-8 without a byte order mark. A line ends with "\\n" or "\\r\\n" and with nothing else,
    since prompts may hold other separators; blank lines are no records. Memory holds one record, or a block of them.
    """
    kinds = {".jsonl": _json_lines, ".json": _objects, ".parquet": _rows}
    return kinds.get(path.suffix.lower(), _text)(path)


def _text(path: Path) -> Records:
    for line, raw in plain_lines(path, "text", MAX_RECORD):
        where = f"{path.name}, line {line.number}"
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: {error.reason} at byte {error.start}; allowed: UTF-8") from None
        if text.startswith("\ufeff"):
            raise UserError(f"{where}: begins with a byte order mark; allowed: UTF-8 without one")
        if text.strip():
            yield where, {"prompt": text}


def _json_lines(path: Path) -> Records:
    for line, raw in plain_lines(path, "JSON lines", MAX_RECORD):
        where = f"{path.name}, line {line.number}"
        try:
            if raw.strip():
                yield where, load_json(raw)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None


def _objects(path: Path) -> Records:
    for number, record in json_array(path):
        yield f"{path.name}, record {number}", record


def _rows(path: Path) -> Records:
    """Rows as objects. Of a table of chats only the columns that a record may have are read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path.name}: Parquet needs the package pyarrow: pip install pyarrow") from None
    with open_source(path, "Parquet") as stream:
        try:
            # Without these two settings whole row groups are read, and a file may be one row group.
            table = ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)
            names = table.schema_arrow.names
            columns = [name for name in names if name in (*KEYS, *CHATS)]
            if columns != names and {*CHATS}.isdisjoint(names):
                unknown = next(name for name in names if name not in KEYS)
                allowed = f"{one_of(KEYS)}, or a chat in {one_of(CHATS)}"
                raise UserError(f"{path.name}: unknown column {shown(unknown)}; allowed: {allowed}")
            rows = (row for batch in table.iter_batches(_ROWS, columns=columns) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path.name}, row {number}", row
        except (ArrowException, OSError) as error:
            raise UserError(f"{path.name}: {shown(str(error), 200)}; allowed: a readable Parquet file") from None
