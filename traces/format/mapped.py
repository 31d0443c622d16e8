"""The files of a trace as they lie on the disk: regular, of the stated size and hash, mapped and never copied."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from traces.format.layout import MANIFEST_FILE
from traces.format.npy import check_header, read_header
from traces.kit.errors import refusal
from traces.kit.fields import FileEntry

_CHUNK = 8 * 2**20


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open a file that lies in the folder itself: a link could lead out of it, a pipe could hang."""
    if not stat.S_ISREG((folder / name).lstat().st_mode):
        raise refusal(name, "kind of file", "not a regular file", "a regular file; links are not followed")
    return (folder / name).open("rb")


def check_file(folder: Path, name: str, entry: FileEntry, *, hashed: bool, listed: str = MANIFEST_FILE) -> None:
    """Refuse a file that has not the size, or if ``hashed`` not the SHA-256, that the file ``listed`` says."""
    with open_file(folder, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != entry.bytes:
            raise refusal(name, "size", f"{size} bytes", f"{entry.bytes} bytes, as in {listed}")
        if hashed and (found := hash_stream(stream)) != entry.sha256:
            raise refusal(name, "SHA-256", found, f"{entry.sha256}, as in {listed}")


def hash_stream(stream: Any) -> str:
    """The SHA-256 of what remains in a binary stream."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def map_file(
    folder: Path, name: str, entry: FileEntry, dtype: np.dtype, shape: tuple[int, ...], listed: str = MANIFEST_FILE
) -> np.memmap:
    """Map an array, read-only, after its header has been held against its size, ``dtype``, ``shape`` and ``entry``."""
    with open_file(folder, name) as stream:
        header = read_header(stream, name)
        check_header(header, name, dtype, shape, os.fstat(stream.fileno()).st_size)
        if (entry.dtype, entry.shape) != (header.descr, header.shape):
            found = f"{entry.dtype} {entry.shape}"
            raise refusal(listed, f"dtype and shape of {name}", found, f"{header.descr} {header.shape}")
        return np.memmap(stream, dtype=dtype, mode="r", offset=header.offset, shape=shape)


def row_chunks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Cut ``rows`` rows into slices of some megabytes, at least one row each."""
    size = max(1, _CHUNK // max(1, row_bytes))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
