"""What a writer with a recipe keeps, what it goes on with, and what it refuses to go on with."""

import fcntl
import gc
import os
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.traces.tiny_trace import MANIFEST
from tests.traces.writing.recording import (
    PLAN,
    RECIPE,
    Plan,
    add,
    begin,
    contents,
    finish,
    finish_alike,
    interrupted,
    play,
    reference,
    writer,
)
from traces import TraceError, open_trace
from traces.cli import main
from traces.writing.growing import GrowingFile


def test_it_goes_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    begin(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".trace.partial"]
    with interrupted(path, recipe=RECIPE) as out:
        assert (out.requests, out.tokens) == (2, 7)
        add(out, 2, 2)
        assert (out.requests, out.tokens) == (3, 12)
    finish_alike(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace"]
    assert open_trace(path).N == 12


def test_without_a_checkpoint_nothing_stays(tmp_path: Path) -> None:
    with interrupted(tmp_path / "t", recipe=RECIPE) as out:
        add(out, 0, 1)
    with pytest.raises(RuntimeError, match="nothing was written"), writer(tmp_path / "t", recipe=RECIPE):
        pass
    with pytest.raises(TraceError, match="at least 1"), writer(tmp_path / "t", recipe=RECIPE) as out:
        out.close(**MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_forgetting_to_close_is_told_and_keeps_what_is_sure_be_it_nothing(tmp_path: Path) -> None:
    out = writer(tmp_path / "trace", recipe=RECIPE)
    out.checkpoint()
    add(out, 0, 1)
    with pytest.raises(RuntimeError, match=r"left without close.*last checkpoint"), out:
        pass
    assert (tmp_path / ".trace.partial").exists()
    finish_alike(tmp_path / "trace")


def test_a_target_that_appears_meanwhile_wins_and_the_recording_stays(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    out = writer(path, recipe=RECIPE)
    for number, decodes in enumerate(PLAN.steps):
        add(out, number, decodes)
    path.mkdir()
    with pytest.raises(TraceError, match="exists already"), out:
        out.close(**MANIFEST)
    with pytest.raises(TraceError, match="exists already"):
        writer(path, recipe=RECIPE)
    path.rmdir()
    with writer(path, recipe=RECIPE) as again:
        assert again.requests == 3
        again.close(**MANIFEST)
    assert contents(path) == reference(PLAN)


def test_requests_may_be_added_after_a_close_that_failed(tmp_path: Path) -> None:
    """It had begun to put the final heads over the files."""
    path = tmp_path / "trace"
    begin(path, requests=1)
    with interrupted(path, recipe=RECIPE) as out, pytest.raises(TraceError, match="recording"):
        out.close(**{**MANIFEST, "recording": "imagined"})
    with interrupted(path, recipe=RECIPE) as out:
        add(out, 1, PLAN.steps[1])
        out.checkpoint()
    finish_alike(path)


def test_what_a_finished_recording_left_does_not_bar_the_next(tmp_path: Path) -> None:
    """Its process was killed before it had tidied up, and the trace has been moved away since."""
    begin(tmp_path / "trace")
    (tmp_path / ".trace.partial" / "unfinished").rename(tmp_path / "elsewhere")
    finish_alike(tmp_path / "trace", {"another": "recipe"})


def test_two_at_once(tmp_path: Path) -> None:
    with interrupted(tmp_path / "trace", recipe=RECIPE) as out:
        out.checkpoint()
        for recipe in (RECIPE, {"another": "recipe"}):
            with pytest.raises(TraceError, match="another process records there; allowed: one at a time"):
                writer(tmp_path / "trace", recipe=recipe)
    finish(tmp_path / "trace")


def test_a_folder_that_its_holder_removes_meanwhile_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file was opened; then the other one finished, and removed it: the lock would be on no name."""
    begin(tmp_path / "trace")
    (tmp_path / ".trace.partial.lock").touch()  # of one that was killed
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        monkeypatch.undo()
        finish(tmp_path / "trace")
        (tmp_path / "trace").rename(tmp_path / "elsewhere")
        begin(tmp_path / "trace")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(TraceError, match="another process records there"):
        writer(tmp_path / "trace", recipe=RECIPE)
    finish(tmp_path / "trace")


@pytest.mark.parametrize("call", [1, 2, 3])
def test_after_a_failed_write_nothing_more_is_taken(tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of which half is written must not be followed by another, nor by a checkpoint."""
    append, calls = GrowingFile.append, count(1)

    def full(file: GrowingFile, raw: bytes) -> None:
        if next(calls) == call + 3:
            raise OSError(28, "No space left on device")
        append(file, raw)

    monkeypatch.setattr(GrowingFile, "append", full)
    with interrupted(tmp_path / "trace", recipe=RECIPE) as out:
        add(out, 0, 1)
        out.checkpoint()
        with pytest.raises(
            TraceError, match=r"cannot be written \(No space left on device\), what the last .* is kept"
        ):
            add(out, 1, 0)
        for more in (out.checkpoint, lambda: add(out, 1, 0), lambda: out.close(**MANIFEST)):
            with pytest.raises(RuntimeError, match="takes nothing more"):
                more()
    finish_alike(tmp_path / "trace")


@pytest.mark.parametrize("call", range(6))
def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path: Path, call: int, monkeypatch: Any) -> None:
    fsync, calls = os.fsync, count()

    def failing(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with interrupted(tmp_path / "trace", recipe=RECIPE) as out:
        add(out, 0, 1)
        out.checkpoint()
        add(out, 1, 0)
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(TraceError, match=r"cannot be written \(Input/output error\)"):
            out.checkpoint()
        with pytest.raises(RuntimeError, match="takes nothing more"):
            out.checkpoint()
    finish_alike(tmp_path / "trace")


@pytest.mark.ci
def test_memory_does_not_grow_with_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def peak(name: str, requests: int) -> int:
        gc.collect()
        gc.freeze()
        tracemalloc.start()
        try:
            with interrupted(tmp_path / name, ("hidden",), recipe=RECIPE) as out:
                for number in range(out.requests, requests):
                    add(out, number, number % 7, ("hidden",))
                    out.checkpoint()
                    # json leaves cycles behind: they are garbage, and not what is looked for here.
                    gc.collect()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    peak("warm", 20)
    few, many = peak("few", 20), peak("many", 400)
    # 380 requests with some 60 kB of rows more: a list of either would show.
    assert many < few + 30_000
    monkeypatch.setattr("traces.writing.journal._MAX_BYTES", 10_000)
    monkeypatch.setattr("traces.writing.growing._CHUNK", 1000)
    few, many = peak("few", 20), peak("many", 400)
    assert many < few + 10_000, "resuming"


@pytest.mark.parametrize("verb", ["check", "inspect"])
def test_an_unfinished_recording_is_no_trace(tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path / "trace")
    place = tmp_path / ".trace.partial"
    (place / "unfinished" / "trace.json").write_text("{}")
    for folder in (place, place / "unfinished", tmp_path / "renamed"):
        if not folder.exists():
            place.rename(folder)
        assert main([verb, str(folder)]) == 2
        said = f"{folder}: an unfinished recording; allowed: a trace, which the command that began it makes"
        assert capsys.readouterr() == ("", f"error: {said}\n")


def test_one_before_its_first_checkpoint_is_no_trace_and_a_trace_may_be_called_unfinished(tmp_path: Path) -> None:
    for recipe in (RECIPE, None):
        with interrupted(tmp_path / "trace", recipe=recipe):
            (place,) = tmp_path.glob(".*.partial")
            with pytest.raises(TraceError, match="an unfinished recording"):
                open_trace(place)
    (tmp_path / "journal.json").write_text("{}")
    play(Plan(str(tmp_path), PLAN.steps), None, {})
    (tmp_path / "trace").rename(tmp_path / "unfinished")
    assert open_trace(tmp_path / "unfinished").N == 12


@pytest.mark.parametrize("recipe", [{"a": float("nan")}, {"a": {1}}, {"a": 1, 1: {"b": b""}}])
def test_a_recipe_is_json(tmp_path: Path, recipe: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        writer(tmp_path / "trace", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {**RECIPE, "seed": 2}}, "seed is 2, but 1 in"),
        ({"recipe": {**RECIPE, "seed": 1.0}}, "seed is 1.0, but 1 in"),
        ({"recipe": {**RECIPE, "seed": True}}, "seed is True, but 1 in"),
        ({"recipe": {**RECIPE, "seed": None, "model": "x"}}, "model is 'x', but 'tiny' in"),
        ({"recipe": {**RECIPE, "decoding": {"mode": "greedy", "top_p": 0.5}}}, r"decoding\.top_p is 0\.5, but 1\.0 in"),
        ({"recipe": {**RECIPE, "decoding": {"mode": "greedy"}}}, r"decoding\.top_p is absent, but 1\.0 in"),
        ({"recipe": {**RECIPE, "decoding": None}}, r"decoding is None, but \{'mode'"),
        ({"recipe": {**RECIPE, "prompts": ["a", "c"]}}, r"prompts\[1\] is 'c', but 'b' in"),
        ({"recipe": {**RECIPE, "prompts": ["a"]}}, "length of prompts is 1, but 2 in"),
        ({"recipe": {**RECIPE, "new\nline": "\ud800"}}, r"new\\nline is '\\ud800', but absent in"),
        ({"recipe": {}}, "model is absent, but 'tiny' in"),
        ({"n_experts": 9}, "n_experts is 9, but 8 in"),
        ({"signals": {"token_ids": ()}}, r"signals\.token_ids is \[\], but absent in"),
    ],
)
def test_another_recipe_or_size_is_refused_by_its_first_difference(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    begin(tmp_path / "trace")
    refuse(tmp_path, message, **{"recipe": RECIPE, **change})
    finish(tmp_path / "trace", {**RECIPE, "prompts": ("a", "b")})  # tuples are lists to JSON


def test_another_version_of_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "trace")
    monkeypatch.setattr("traces.writing.writer.SCHEMA", 2)
    refuse(tmp_path, "format is 2, but 1 in", recipe=RECIPE)


def refuse(folder: Path, message: str, **changes: Any) -> None:
    """Expect one line that names the folder and a way out, and not a byte changed."""
    before = contents(folder)
    with pytest.raises(TraceError, match=message) as caught:
        writer(folder / "trace", **changes)
    text = str(caught.value)
    assert text.startswith(str(folder / ".trace.partial"))
    assert "removed" in text
    assert "\n" not in text
    assert len(text) < 1000 + len(str(folder))
    assert contents(folder) == before
