"""What the tests of importers share: import what a recorder wrote, and look at what came of it."""

import io
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
import pytest

from traces import Trace, UserError, open_trace
from traces.importers import Options
from traces.importers.cli import importers


class Imported(NamedTuple):
    """A trace, and what was said of it."""

    trace: Trace
    notes: list[str]


def raw_of(content: Any) -> bytes:
    """Text, lines of it, objects as JSON Lines, or the arrays of an archive by name, as the bytes of a file."""
    if isinstance(content, dict):
        stream = io.BytesIO()
        np.savez_compressed(stream, **{name: array for name, array in content.items() if array is not None})
        return stream.getvalue()
    if isinstance(content, list):
        content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in content)
    return content.encode() if isinstance(content, str) else content


def take(folder: Path, kind: str, content: Any, options: Options | None = None, **own: Any) -> Imported:
    """Import ``content`` as format ``kind`` with its own options; twice, the second time split, to see that it can."""
    source, target = folder / "made.file", Path(mkdtemp(dir=folder))
    source.write_bytes(raw_of(content))
    notes: list[str] = []
    options = replace(options or Options(), own=own, note=notes.append)
    trace = open_trace(importers()[kind].run(source, target / "trace", options))
    if len(trace.requests) > 1:
        again = replace(options, split=Fraction(1, 2), model="mine", source="talk", licence="CC0", note=lambda _: None)
        halves = open_trace(importers()[kind].run(source, target / "halves", again))
        assert sorted({str(item.split) for item in halves.requests}) == ["test", "train"]
        assert (halves.manifest.model.name, halves.manifest.prompts.licence) == ("mine", "CC0")
        assert {item.source for item in halves.requests} == {"talk"}
        assert halves.expert_ids.tobytes() == trace.expert_ids.tobytes()
    return Imported(trace, notes)


def refuse(folder: Path, kind: str, content: Any, message: str, options: Options | None = None, **own: Any) -> None:
    """Try to import ``content``: one line that has ``message`` (or its pattern) in it, and nothing is left behind."""
    source = folder / "made.file"
    source.write_bytes(raw_of(content))
    before = sorted(folder.iterdir())
    with pytest.raises(UserError) as caught:
        importers()[kind].run(source, folder / "trace", replace(options or Options(), own=own))
    text = str(caught.value)
    # It holds this frame and those of generators with an open file, which would be closed who knows when.
    del caught
    assert message in text or re.search(message, text), text
    assert "\n" not in text
    assert text.isascii()
    assert len(text) < 1000
    assert sorted(folder.iterdir()) == before


def steps(trace: Trace) -> list[tuple[int, ...]]:
    """Request, phase, rows and context of each step."""
    return [tuple(step) for step in trace.steps[["request", "phase", "rows", "context"]].tolist()]


def ids(trace: Trace) -> list[Any]:
    """The expert ids, -1 where absent."""
    return np.where(trace.expert_ids == trace.absent, -1, trace.expert_ids.astype(int)).tolist()
