"""A file with a head of fixed length that grows at its end, and can be cut back to where it was sure."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from traces.format.mapped import hash_stream
from traces.writing.journal import Mark, damaged, open_regular

_CHUNK = 2**20


class GrowingFile:
    """A file that is open at its end; ``mark`` says how much it holds."""

    def __init__(self, stream: BinaryIO, mark: Mark) -> None:
        self._stream = stream
        self._bytes, self._crc32 = mark.bytes, mark.crc32

    @classmethod
    def begin(cls, path: Path, head: bytes) -> GrowingFile:
        """Make the file ``path``, with its head as it is before anything is appended."""
        stream = path.open("x+b")
        stream.write(head)
        return cls(stream, Mark(len(head), 0))

    @classmethod
    def resume(cls, place: Path, path: Path, mark: Mark, heads: tuple[bytes, bytes]) -> GrowingFile:
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


def _sum(stream: BinaryIO, left: int) -> int:
    """Return the CRC-32 of the next ``left`` bytes, in memory that does not grow with them."""
    total = 0
    while left and (chunk := stream.read(min(left, _CHUNK))):
        total, left = zlib.crc32(chunk, total), left - len(chunk)
    return total
