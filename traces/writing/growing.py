"""The files of one trace as they grow at their ends, and can be cut back to where they were sure.

Each has a head of fixed length; they are begun empty or gone on with from a checkpoint.
"""

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from traces.format.layout import REQUESTS_FILE, STEP_DTYPE, STEPS_FILE, signal_dtype
from traces.format.manifest import Counts
from traces.format.npy import hash_stream, header_bytes
from traces.format.requests import HEADER_LINE
from traces.kit.whole import JOURNAL
from traces.writing.journal import Checkpoint, Mark, damaged, open_regular

_CHUNK = 2**20
NOTHING = Counts(0, 0, 0)


class GrowingFile:
    """A file that is open at its end; ``mark`` says how much it holds."""

    def __init__(self, stream: BinaryIO, mark: Mark) -> None:
        self._stream = stream
        self._bytes, self._crc32 = mark.bytes, mark.crc32

    @classmethod
    def begin(cls, path: Path, head: bytes) -> Self:
        """Make the file ``path``, with its head as it is before anything is appended."""
        stream = path.open("x+b")
        stream.write(head)
        return cls(stream, Mark(len(head), 0))

    @classmethod
    def resume(cls, place: Path, path: Path, mark: Mark, heads: tuple[bytes, bytes]) -> Self:
        """Go on with a file of the recording in folder ``place`` from ``mark`` on; what follows is cut off.

        ``heads``: the head while it grows, and the one that finish() would have begun to put over it.
        Raises TraceError where the file does not hold what was marked.
        """
        name = path.relative_to(place).as_posix()
        try:
            stream = open_regular(path, os.O_RDWR)
        except OSError as error:
            raise damaged(place, name, str(error.strerror or error), "the file as it was written") from None
        try:
            size, blank = os.fstat(stream.fileno()).st_size, heads[0]
            if size < mark.bytes:
                raise damaged(place, f"{name}, size", f"{size} bytes", f"at least {mark.bytes}, as the journal says")
            head = stream.read(len(blank))
            # The head may have been cut off halfway between the two.
            if any(byte not in pair for byte, *pair in zip(head, *heads, strict=True)):
                raise damaged(place, f"{name}, head", head, "the one that was written")
            if (found := _sum(stream, mark.bytes - len(blank))) != mark.crc32:
                raise damaged(place, f"{name}, CRC-32", found, f"{mark.crc32}, as the journal says")
            stream.truncate(mark.bytes)
            stream.seek(0)
            stream.write(blank)
            stream.seek(mark.bytes)
        except BaseException:
            stream.close()
            raise
        return cls(stream, mark)

    def append(self, raw: bytes) -> None:
        """Add ``raw``; it is sure once sync() has returned."""
        self._stream.write(raw)
        self._bytes += len(raw)
        self._crc32 = zlib.crc32(raw, self._crc32)

    def sync(self) -> Mark:
        """Put all of it on the disk, and return how much that is."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return Mark(self._bytes, self._crc32)

    def finish(self, head: bytes) -> tuple[str, int]:
        """Put ``head`` over the first one, which is as long, and close; returns the SHA-256 and the size."""
        with self._stream as stream:
            stream.seek(0)
            stream.write(head)
            stream.seek(0)
            return hash_stream(stream), self._bytes

    def tail(self, size: int) -> bytes:
        """Return the last ``size`` bytes, of which there must be as many after the head."""
        self._stream.seek(self._bytes - size)
        return self._stream.read(size)

    def close(self) -> None:
        """Close the file as it is. What cannot be written any more was never sure."""
        with suppress(OSError):
            self._stream.close()


@dataclass(frozen=True)
class Layout:
    """What decides the files but their lengths: E, and the signals with their shapes after the rows."""

    n_experts: int
    trailing: Mapping[str, tuple[int, ...]]

    @property
    def files(self) -> tuple[str, ...]:
        """The names, in the order in which ``trace.json`` lists them."""
        return (REQUESTS_FILE, STEPS_FILE, *(f"{name}.npy" for name in self.trailing))

    def array(self, file: str, counts: Counts) -> tuple[np.dtype, tuple[int, ...]]:
        if file == STEPS_FILE:
            return STEP_DTYPE, (counts.steps,)
        name = file.removesuffix(".npy")
        return signal_dtype(name, self.n_experts), (counts.tokens, *self.trailing[name])

    def head(self, file: str, counts: Counts) -> bytes:
        """Return how ``file`` begins; its length does not depend on ``counts``."""
        return HEADER_LINE.encode() if file == REQUESTS_FILE else header_bytes(*self.array(file, counts))

    def begin(self, folder: Path) -> dict[str, GrowingFile]:
        return {file: GrowingFile.begin(folder / file, self.head(file, NOTHING)) for file in self.files}

    def resume(self, place: Path, folder: Path, last: Checkpoint) -> dict[str, GrowingFile]:
        """Go on with the files in ``folder`` of the recording in ``place``, cut back to the checkpoint ``last``.

        Nothing there is trusted: raises TraceError where files and journal contradict one another. That takes
        reading all of the files once.
        """
        for file in self.files:
            found, expected = last.files[file].bytes, len(self.head(file, NOTHING))
            allowed = f"at least {expected}"
            if file != REQUESTS_FILE:
                dtype, shape = self.array(file, last.counts)
                expected += math.prod(shape) * dtype.itemsize
                allowed = f"{expected}, as its counts say"
            if found < expected or (found > expected and file != REQUESTS_FILE):
                raise damaged(place, f"{JOURNAL}, files.{file}.bytes", found, allowed)
        files: dict[str, GrowingFile] = {}
        with ExitStack() as opened:
            for file in self.files:
                heads = self.head(file, NOTHING), self.head(file, last.counts)
                files[file] = GrowingFile.resume(place, folder / file, last.files[file], heads)
                opened.callback(files[file].close)
            # No length but that of the text depends on the requests: the last step tells how many there are.
            told = NOTHING
            if last.counts.steps:
                step = np.frombuffer(files[STEPS_FILE].tail(STEP_DTYPE.itemsize), STEP_DTYPE)[0]
                tokens = int(step["first_row"]) + int(step["rows"])
                told = Counts(int(step["request"]) + 1, last.counts.steps, tokens)
            if last.counts != told:
                raise damaged(place, f"{JOURNAL}, counts", last.counts, f"{told}, as the last step says")
            opened.pop_all()
        return files


def _sum(stream: BinaryIO, left: int) -> int:
    """Return the CRC-32 of the next ``left`` bytes, in memory that does not grow with them."""
    total = 0
    while left and (chunk := stream.read(min(left, _CHUNK))):
        total, left = zlib.crc32(chunk, total), left - len(chunk)
    return total
