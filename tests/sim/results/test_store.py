"""A result is there whole or not at all: whatever fails on the way, and whoever looks meanwhile."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sim.results.store
from sim.experiment.run import run_config
from sim.results.store import Store
from tests.sim.small_trace import SIZE, Plan, config, one_layer
from traces.kit.errors import UserError

FILES = {"result.json", "requests.parquet", "layers.parquet", "config.yaml", "log.npy"}

_watching: list[Callable[[str], None]] = []
_hooked: list[bool] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    for look in _watching[:]:
        _watching.clear()  # what it asks itself is no event
        look(event)
        _watching.append(look)


@contextmanager
def watching(look: Callable[[str], None]) -> Iterator[None]:
    """``look(event)`` before whatever Python asks of the operating system. It may not raise."""
    if not _hooked:  # a hook stays for good
        sys.addaudithook(_hook)
        _hooked.append(True)
    _watching.append(look)
    try:
        yield
    finally:
        _watching.clear()


class Failure(Exception):  # noqa: N818 - not an error of ours
    """What the tests raise in the middle of writing."""


def _fails(*given: object) -> None:
    raise Failure


def fill(folder: Path) -> None:
    (folder / "a").write_text("a")


def test_only_what_was_left_long_ago_is_removed(tmp_path: Path) -> None:
    for name in (".a.0123abcd.partial", ".b.0123abcd.partial"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".b.0123abcd.partial", (0, 0))
    Store(tmp_path).put(tmp_path / "cell", fill)
    assert {path.name for path in tmp_path.iterdir()} == {".a.0123abcd.partial", "cell"}


def test_who_was_first_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    final = store.folder("cell")

    def beaten(folder: Path) -> None:
        final.mkdir()
        (final / "theirs").write_text("theirs")
        fill(folder)

    store.put(final, beaten)
    assert [path.name for path in final.iterdir()] == ["theirs"]
    assert list(store.root.iterdir()) == [final]


def test_a_folder_that_cannot_be_renamed_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")

    def blocked(folder: Path) -> None:
        store.folder("cell").write_text("a file")

    with pytest.raises(UserError, match=r"cell: cannot be written \(Not a directory\)"):
        store.put(store.folder("cell"), blocked)
    assert [path.name for path in store.root.iterdir()] == ["cell"]


@pytest.mark.parametrize("step", ["request_rows", "layer_rows", "_write_json"])
def test_a_run_that_fails_while_writing_is_run_again(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 0])
    given = config(trace, 2 * SIZE, log=True)
    with monkeypatch.context() as patched:
        patched.setattr(sim.results.store, step, _fails)
        with pytest.raises(Failure):
            run_config(given, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    result = run_config(given, tmp_path / "out")
    assert not result.cached
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert json.loads((result.folder / "result.json").read_text())["totals"]["wall_ns"] == 36
    assert run_config(given, tmp_path / "out").cached


def test_a_run_is_never_seen_incomplete(tmp_path: Path) -> None:
    trace = one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 0])
    given = config(trace, 2 * SIZE, log=True)
    first = run_config(given, tmp_path / "first").folder
    expected = {path.name: path.stat().st_size for path in first.iterdir()}
    final = tmp_path / "second" / first.name
    seen: list[dict[str, int] | None] = []

    def look(event: str) -> None:
        if event.startswith(("open", "os.", "shutil.", "tempfile.")):
            seen.append({p.name: p.stat().st_size for p in final.iterdir()} if final.exists() else None)

    with watching(look):
        run_config(given, tmp_path / "second")
        (tmp_path / "afterwards").touch()
    assert set(expected) == FILES
    assert {path for path in final.parent.iterdir() if path.is_dir()} == {final}
    assert seen[0] is None
    assert seen[-1] == expected
    assert all(found in (None, expected) for found in seen)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever notices it: Python, or pyarrow in words of its own."""
    given = config(one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 0]), 2 * SIZE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]")

    with monkeypatch.context() as patched:
        patched.setattr(sim.results.store, "layer_rows", full)
        with pytest.raises(UserError, match=r"^out=.*/out: lru-24-\w+: cannot be written \(No space left on device\)$"):
            run_config(given, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not run_config(given, tmp_path / "out").cached


def test_out_must_be_a_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out=.*not a folder"):
        Store(tmp_path / "file")
    with pytest.raises(UserError, match=r"out=.*cannot be written"):
        Store(tmp_path / "file" / "below").put(tmp_path / "file" / "below" / "cell", fill)
