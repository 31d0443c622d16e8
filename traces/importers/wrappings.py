"""What text comes wrapped in: gzip and a byte order mark are taken off, anything else is named."""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from traces.kit.errors import TraceError, refusal
from traces.kit.strict import open_source

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_OTHERS = {
    _GZIP: "gzip",
    b"PK\3\4": "a zip archive (.npz, or .pt of PyTorch)",
    b"PK\5\6": "an empty zip archive",
    b"\x93NUMPY": "a .npy array",
    b"PAR1": "Parquet",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "an SQLite database",
    b"GGUF": "a GGUF model",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    **{bytes([0x80, version]): "a pickle, which is never read" for version in range(2, 6)},
}


def content_of(head: bytes) -> str:
    """Say what the first bytes of a file are of: "text" where nothing else is known."""
    wide = len(head) > 3 and (head[:2].count(0), head[2:4].count(0)) == (1, 1)
    plain = "UTF-16 text" if wide else "text" if head else "nothing"
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), plain)


_FREE = 2**24
_RATIO = 100
"""Bytes that any gzip may hold, and beyond them how many of each compressed byte: JSON packs into a tenth or so."""


class _Unpacked(io.RawIOBase):
    """The bytes of a gzip file, whose size its compressed size bounds."""

    def __init__(self, source: Path, packed: BinaryIO) -> None:
        self._name, self._packed = source.name, packed
        self._most = max(_FREE, _RATIO * source.stat().st_size)
        self._plain, self._count = gzip.GzipFile(fileobj=packed), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            raw = self._plain.read1(len(view))
        except (OSError, EOFError, zlib.error) as error:
            why = f"{error} after {self._count} bytes"
            raise refusal(self._name, "gzip", why, "a gzip file that is whole") from None
        self._count += len(raw)
        if self._count > self._most:
            found = f"over {self._most} bytes, more than {_RATIO} times its size"
            raise refusal(self._name, "gzip", found, "less, or the file unpacked")
        view[: len(raw)] = raw
        return len(raw)

    def close(self) -> None:
        self._packed.close()
        super().close()


def open_text(source: Path, what: str) -> BinaryIO:
    """Open a text file at its first character: gzip (by its first bytes) is unpacked, a BOM of UTF-8 skipped.

    Raises TraceError for what is no text of one byte a character: archives, other compressions, UTF-16, pickles.
    """
    stream: BinaryIO = open_source(source, what)
    try:
        assert isinstance(stream, io.BufferedReader)
        packed = stream.peek(8).startswith(_GZIP)
        reader = io.BufferedReader(_Unpacked(source, stream)) if packed else stream
        head = reader.peek(16)
        kind = content_of(head)
        if kind not in ("text", "nothing"):
            found = f"{kind}, inside gzip" if packed else kind
            raise refusal(source.name, "content", found, f"UTF-8 text, {what}, plain or gzipped")
        if head.startswith(_BOM):
            reader.read(len(_BOM))
    except OSError as error:
        stream.close()
        raise TraceError(f"{source}: {error.strerror}; allowed: a readable {what} file") from None
    except BaseException:
        stream.close()
        raise
    return reader
