"""Headers of .npy files: whoever wrote them, and nothing that a stranger could make of them."""

import io

import numpy as np
import pytest

from traces.format.npy import Header, header_bytes, read_header
from traces.kit.errors import TraceError


def head(text: bytes | str, version: bytes = b"\1\0") -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("latin-1")
    return b"\x93NUMPY" + version + len(raw).to_bytes(2 if version[0] == 1 else 4, "little") + raw


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0"])
@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }    \n",
        "{'shape':(3,2),'fortran_order':False,'descr':'<i4'}",
        '{"descr": "<i4", "fortran_order": False, "shape": (3, 2)}',
    ],
)
def test_all_spellings_say_the_same(text: str, version: bytes) -> None:
    stream = io.BytesIO((raw := head(text, version)) + b"data")
    assert read_header(stream, "f") == Header("<i4", (3, 2), len(raw))
    assert stream.read() == b"data"


def test_it_reads_what_it_writes() -> None:
    dtype = np.dtype([("a", "<i4"), ("b", "<u2", (3,))])
    raw = header_bytes(dtype, (7,))
    assert read_header(io.BytesIO(raw), "f") == Header("[('a', '<i4'), ('b', '<u2', (3,))]", (7,), len(raw))
    assert len(header_bytes(dtype, (10**12,))) == len(raw)


PLAIN = "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "first bytes"),
        (b"\x93NUMPY", "first bytes"),
        (head("{}", b"\3\0"), "first bytes"),
        (head(""), "header is"),
        (head("{}"), "header is"),
        (head("[" * 4000), "header is"),
        (head("-" * 4000 + "1"), "header is"),
        (head("{'descr': '<i4'" + "\n  (\n\\"), "header is"),
        (head(PLAIN.format("'<i4'", False, "(3L,)")), "header is"),  # as Python 2 wrote it
        (head(PLAIN.format("'<i4'", False, "(3,)"))[:-3], "header is"),
        (head(PLAIN.format("'<i4'", False, "3")), "header is"),
        (head(PLAIN.format("'<i4'", 1, "(3,)")), "header is"),
        (head(PLAIN.format("'<q9'", False, "(3,)")), "header is"),
        (head(PLAIN.format("[('a',)]", False, "(3,)")), "header is"),
        (head(PLAIN.format("'<i4'", False, "(-3,)")), "shape is"),
        (head(PLAIN.format("'<i4'", False, "(True,)")), "shape is"),
        (head(PLAIN.format("'<i4'", False, f"({10**30},)")), "shape is"),
        (head(PLAIN.format("'|O'", False, "(3,)")), "pickled objects are never read"),
        (head(PLAIN.format("[('a', '<i4'), ('b', '|O')]", False, "(3,)")), "pickled objects are never read"),
        (head(b" " * 5000), "header length is"),
    ],
)
def test_what_is_no_header_is_one_line(raw: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=f"^f: {message}|{message}$") as caught:
        read_header(io.BytesIO(raw), "f")
    assert "\n" not in str(caught.value)


def test_a_claim_of_gigabytes_is_not_read() -> None:
    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= 4096
            return super().read(size)

    with pytest.raises(TraceError, match=r"header length is '?4294967295"):
        read_header(Watched(b"\x93NUMPY\2\0" + b"\xff" * 4), "f")
