"""What the tests of importers share: import a text, and look at what came of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from traces import Trace, UserError, open_trace
from traces.importers import Options
from traces.importers.registry import importers


class Imported(NamedTuple):
    """A trace, and what was said of it."""

    trace: Trace
    notes: list[str]


def take(folder: Path, kind: str, content: str | bytes, options: Options | None = None, **own: Any) -> Imported:
    """Import ``content`` as format ``kind`` with its own options; twice, the second time split, to see that it can."""
    source = folder / "made.file"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes: list[str] = []
    options = replace(options or Options(), own=own, note=notes.append)
    trace = open_trace(importers()[kind].run(source, folder / "trace", options))
    if len(trace.requests) > 1:
        again = replace(options, split=Fraction(1, 2), model="mine", source="talk", licence="CC0")
        halves = open_trace(importers()[kind].run(source, folder / "halves", again))
        assert sorted({str(item.split) for item in halves.requests}) == ["test", "train"]
        assert (halves.manifest.model.name, halves.manifest.prompts.licence) == ("mine", "CC0")
        assert halves.expert_ids.tobytes() == trace.expert_ids.tobytes()
    return Imported(trace, notes)


def refuse(folder: Path, kind: str, content: str | bytes, message: str, **own: Any) -> None:
    """Try to import ``content``: one line that has ``message`` in it, and nothing is left behind."""
    source = folder / "made.file"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(folder.iterdir())
    with pytest.raises(UserError) as caught:
        importers()[kind].run(source, folder / "trace", Options(own=own))
    text = str(caught.value)
    # It holds this frame and those of generators with an open file, which would be closed who knows when.
    del caught
    assert message in text
    assert "\n" not in text
    assert len(text) < 1000
    assert sorted(folder.iterdir()) == before


def steps(trace: Trace) -> list[tuple[int, ...]]:
    """Request, phase, rows and context of each step."""
    return [tuple(step) for step in trace.steps[["request", "phase", "rows", "context"]].tolist()]


def ids(trace: Trace) -> list[Any]:
    """The expert ids, -1 where absent."""
    return [[[-1 if x == trace.absent else x for x in slots] for slots in row] for row in trace.expert_ids.tolist()]
