"""The prompts to record, read from a file one at a time: each a request or several, for training or for testing."""

from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from traces.format.npy import hash_stream
from traces.importers.files import open_source
from traces.kit.errors import UserError, check_choice, check_range
from traces.prompts.files import read_records
from traces.prompts.records import TURNS, Prompt, parse_record
from traces.prompts.splits import OPEN, SPLITS, draw_splits


class PromptFile:
    """The requests of a file, streamed: each pass over them reads the file again.

    `limit`: the first so many prompts that can be used; 0: all. `split`: the share of the prompts, per source, that
    are for training, drawn with `seed` (traces.prompts.splits); a split that a record states is kept.
    `samples`: requests per prompt, in a row and in the same split, lest what is tested was trained on.
    `turn`: which assistant turn of a chat is its answer, "first" or "last". The kinds of files are those of
    traces.prompts.files, the records those of traces.prompts.records.

    Building it reads the whole file and checks every record that is used, so that a recording of hours does not end
    at a bad line. `settings`: what it was built with, by name. `skipped` is then the number of chats that were passed
    over since no user speaks before the answer: whoever records must say it. `stating_length` is the number of prompts
    with a `max_new_tokens` of their own, which goes before the one for all. `name` is the file's name without its
    folder, `sha256` the hash of its bytes in hexadecimal, `licences` those that records state, sorted.

    Memory: 1 byte per prompt, 5 while the splits are drawn, one text per distinct source and licence, and a block
    of the file. Raises UserError with file and line for a record that is wrong, for a file without a prompt, and
    for one that is no longer what it was when a later pass reads it.
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
        check_range("limit", limit, 0)
        check_range("split", split, 0, 1)
        check_range("samples", samples, 1)
        check_choice("turn", turn, TURNS)
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
        """Return the number of requests: prompts times samples."""
        return len(self._splits) * self._samples

    def __iter__(self) -> Iterator[Prompt]:
        """Yield all requests in the order of the file."""
        return self._requests(0)

    def after(self, number: int) -> Iterator[Prompt]:
        """Yield the requests from `number` on, just as a whole pass would; UserError unless 0 <= number <= len."""
        check_range("after", number, 0, len(self))
        return self._requests(number)

    def _requests(self, first: int) -> Iterator[Prompt]:
        self._check_unchanged()
        try:
            number = 0
            for record in self._records():
                if record is None:
                    continue
                if number == len(self):
                    break
                split = SPLITS[self._splits[number // self._samples]]
                for _ in range(self._samples):
                    if number >= first:
                        yield replace(record, number=number, split=split)
                    number += 1
        except UserError:
            self._check_unchanged()  # a file that is being written to looks malformed
            raise
        self._check_unchanged()

    def _records(self) -> Iterator[Prompt | None]:
        """Yield the records up to the limit; None for a chat that is passed over."""
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
