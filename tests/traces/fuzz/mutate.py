"""Files that are wrong somewhere: what is drawn, how it is applied, and what may become of it.

At length, with counts of what became of them: ``FUZZ_EXAMPLES=10000 python -m pytest tests/traces/fuzz
--hypothesis-show-statistics``.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st

from traces import Trace, UserError, open_trace
from traces.importers import Options
from traces.importers.cli import importers

SHORT = 60
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", SHORT))
FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= SHORT,  # a longer search looks at other files each time
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TOKENS = [
    *(b"-1", b"0", b"1", b"255", b"65534", b"65535", b"1e9", b"1e999", b"0.5", b"null", b"true", b"NaN", b"9" * 30),
    *(b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"[]", b"{}", b"[", b"}", b"[" * 2000, b"\\ud800"),
    *(b'"layer"', b'"ids"', b'"weights"', b'"phase"', b'"shape"', b"PK", b"\x93NUMPY"),
]
KINDS = ["replace", "replace", "number", "number", "number", "line twice", "line gone", "lines swapped", "cut"]
EDIT = st.tuples(
    st.sampled_from(KINDS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 12),
    st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS)),
)
EDITS = st.lists(EDIT, min_size=1, max_size=3)
Edit = tuple[str, float, int, bytes]


def mutated(raw: bytes, edits: list[Edit]) -> bytes:
    """Apply the edits, one after the other."""
    for kind, place, length, new in edits:
        start = int(place * len(raw))
        lines = raw.splitlines(keepends=True)
        index = int(place * len(lines))
        if kind == "cut":
            raw = raw[:start]
        elif kind == "replace" or not lines:
            raw = raw[:start] + new + raw[start + length :]
        elif kind == "number":
            # The next number of the text, so that structure stays and content changes.
            digits = next((i for i in range(start, len(raw)) if raw[i : i + 1].isdigit()), len(raw))
            raw = raw[:digits] + str(length).encode() + raw[digits + 1 :]
        else:
            other = (index + length) % len(lines)
            if kind == "line twice":
                lines.insert(other, lines[index])
            elif kind == "line gone":
                del lines[index]
            else:
                lines[index], lines[other] = lines[other], lines[index]
            raw = b"".join(lines)
    return raw


def attempted(folder: Path, kind: str, raw: bytes, options: Options) -> Trace | None:
    """Import ``raw`` in the empty ``folder``: the trace, which is gone from there; None where it is refused."""
    source, target = folder / "source", folder / "trace"
    source.write_bytes(raw)
    trace = None
    if accepted_or_refused(lambda: importers()[kind].run(source, target, options)):
        trace = open_trace(target)
        shutil.rmtree(target)
    assert [path.name for path in folder.iterdir()] == ["source"]
    return trace


def json_rows(raw: bytes) -> list[dict[str, Any]]:
    """The objects, also behind the field name of a server-sent event; its other fields and comments say nothing."""
    found = [line.removeprefix(b"data:") for line in text_lines(raw) if not re.match(rb"(event|id|retry)?:", line)]
    try:
        return [json.loads(line) for line in found if line.strip() != b"[DONE]"]
    except ValueError:
        # Objects over several lines, or in an array.
        text, rows, at = raw.decode("utf-8-sig"), [], 0
        while match := re.compile(r"[\s,\[\]]*(?={)").match(text, at):
            row, at = json.JSONDecoder().raw_decode(text, match.end())
            rows.append(row)
        return rows


def text_lines(raw: bytes) -> list[bytes]:
    """The lines that are not blank."""
    return [line for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]


def accepted_or_refused(attempt: Callable[[], object]) -> bool:
    """Run ``attempt``: it returns, or refuses with one short line. Says whether it returned."""
    start, outcome = time.perf_counter(), "accepted"
    try:
        attempt()
    except UserError as error:
        outcome = "refused"
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1500
        text.encode()
    assert time.perf_counter() - start < 20, "a hang"
    event(outcome)
    return outcome == "accepted"
