"""Nothing in the folder of an unfinished recording is trusted: what is damaged is refused, never gone on with."""

import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.format.desk import NO_JSON
from tests.traces.writing.recording import Plan, add, contents, interrupted, play, reference, writer
from traces import TraceError
from traces.format.requests import HEADER_LINE

PLAN = Plan("", (1, 0, 2), (0, 1, 2))
RECIPE = {"steps": PLAN.steps}
FILES = ("requests.csv", "steps.npy", "expert_ids.npy")


@cache
def kept() -> dict[str, bytes]:
    """The files of a recording whose process ended after its second checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        with interrupted(Path(folder) / "trace", recipe=RECIPE) as out:
            for number in range(2):
                add(out, number, PLAN.steps[number])
            out.checkpoint()
        return contents(Path(folder))


def lay(folder: Path) -> Path:
    """Put that recording into ``folder``; returns the folder in the making."""
    for name, raw in kept().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder / ".trace.partial"


def refused(folder: Path, message: str | None = None) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        writer(folder / "trace", recipe=RECIPE)
    text = str(caught.value)
    assert text.startswith(f"{folder / '.trace.partial'} is damaged: ")
    assert text.endswith("or a new recording, once that folder is removed")
    assert "\n" not in text
    assert len(text) < 1000 + 2 * len(str(folder))


def test_undamaged_it_goes_on(tmp_path: Path) -> None:
    lay(tmp_path)
    play(Plan(str(tmp_path), PLAN.steps), RECIPE, report := {})
    assert report["resumed"] == 2
    assert contents(tmp_path / "trace") == reference(PLAN)


@pytest.mark.parametrize("raw", [*NO_JSON, b"\0" * 100, b"1", b"null", b" " * 2**24 + b"1"], ids=lambda raw: raw[:9])
def test_a_journal_that_is_none(tmp_path: Path, raw: bytes) -> None:
    (lay(tmp_path) / "journal.json").write_bytes(raw)
    refused(tmp_path, "journal.json")


INTEGERS = [("counts", name) for name in ("requests", "steps", "tokens")]
INTEGERS += [("files", name, key) for name in FILES for key in ("bytes", "crc32")]


@pytest.mark.parametrize("value", [-1, True, 1.5, "3", 2**63, None, [], {}, 10**400], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("path", INTEGERS, ids=".".join)
def test_integers_are_integers(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    edit(lay(tmp_path), path, lambda _: value)
    refused(tmp_path, f"{'.'.join(path[:1])}.*integer, at least 0")


@pytest.mark.parametrize("by", [-2, -1, 1, 2, 2**40])
@pytest.mark.parametrize("path", INTEGERS, ids=".".join)
def test_every_integer_is_held_against_the_files(tmp_path: Path, path: tuple[str, ...], by: int) -> None:
    edit(lay(tmp_path), path, lambda value: max(0, value + by))
    refused(tmp_path)


@pytest.mark.parametrize("path", [(), ("counts",), ("files",), ("files", "steps.npy")], ids=lambda path: ".".join(path))
@pytest.mark.parametrize("change", [lambda it: {**it, "more": 1}, lambda it: dict([*it.items()][1:]), lambda it: [it]])
def test_keys_are_exactly_the_known_ones(tmp_path: Path, path: tuple[str, ...], change: Callable[[Any], Any]) -> None:
    edit(lay(tmp_path), path, change)
    refused(tmp_path, "allowed: (exactly the keys|1)")


def edit(place: Path, path: tuple[str, ...], change: Callable[[Any], Any]) -> None:
    def at(node: Any, keys: tuple[str, ...]) -> Any:
        return change(node) if not keys else {**node, keys[0]: at(node[keys[0]], keys[1:])}

    journal = place / "journal.json"
    journal.write_text(json.dumps(at(json.loads(journal.read_bytes()), path)))


def test_a_text_is_no_shorter_than_its_head(tmp_path: Path) -> None:
    for size in (0, 5, len(HEADER_LINE) - 1):
        edit(lay(tmp_path), ("files", "requests.csv", "bytes"), lambda _, size=size: size)
        refused(tmp_path, f"files.requests.csv.bytes is {size}; allowed: at least {len(HEADER_LINE)}")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["missing", "empty", "one byte short"])
def test_a_file_that_does_not_hold_its_mark(tmp_path: Path, name: str, kind: str) -> None:
    file = lay(tmp_path) / "unfinished" / name
    raw = file.read_bytes()
    file.unlink()
    if kind != "missing":
        file.write_bytes(raw[:-1] if kind == "one byte short" else b"")
    refused(tmp_path, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 5, 7, 20, len(HEADER_LINE) - 1])
def test_a_head_that_nobody_wrote(tmp_path: Path, name: str, place: int) -> None:
    file = lay(tmp_path) / "unfinished" / name
    raw = bytearray(file.read_bytes())
    raw[place] ^= 0x80
    file.write_bytes(raw)
    refused(tmp_path, f"unfinished/{name}, head is")


@pytest.mark.parametrize("name", ["journal.json", *(f"unfinished/{name}" for name in (*FILES, "trace.json"))])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_regular_file(tmp_path: Path, name: str, kind: str) -> None:
    file, outside = lay(tmp_path) / name, tmp_path / "outside"
    outside.write_bytes(file.read_bytes() if file.exists() else b"mine")
    before = outside.read_bytes()
    file.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    refused(tmp_path, Path(name).name)
    assert outside.read_bytes() == before


@pytest.mark.parametrize("name", ["", "journal.json", "unfinished"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    place = lay(tmp_path / "real")
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / ".trace.partial" / name
    if name:
        lay(tmp_path / "here")
        (link.unlink if link.is_file() else lambda: link.rename(tmp_path / "away"))()
    link.symlink_to(place / name)
    before = contents(tmp_path)
    refused(tmp_path / "here")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("journalled", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "unfinished/notes.txt", "unfinished/predicted/x.npy", "unfinished"])
def test_what_is_not_ours_is_neither_removed_nor_published(tmp_path: Path, name: str, journalled: bool) -> None:
    place = lay(tmp_path)
    if not journalled:
        (place / "journal.json").unlink()
    if name == "unfinished":
        (place / name).rename(tmp_path / "away")
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_text("mine")
    refused(tmp_path, "name is|unfinished is")
    assert (place / name).read_text() == "mine"


def test_a_signal_that_was_not_declared_is_not_published(tmp_path: Path) -> None:
    (lay(tmp_path) / "unfinished" / "hidden.npy").write_text("?")
    refused(tmp_path, "unfinished is 'hidden.npy'; allowed: regular files only: trace.json, requests.csv")


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(kept())), place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_flipped_byte_gets_into_a_trace(name: str, place: int, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder))
        raw = bytearray(kept()[name])
        raw[place % len(raw)] ^= flip
        (Path(folder) / name).write_bytes(raw)
        plan = Plan(folder, PLAN.steps)
        try:
            play(plan, RECIPE, {})
        except TraceError as error:
            assert str(error).startswith(str(Path(folder) / ".trace.partial"))  # noqa: PT017
        else:
            assert contents(plan.path) == reference(PLAN)
