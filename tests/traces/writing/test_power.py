"""A power cut loses what no fsync has put on the disk; a checkpoint that returned is never among it."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.traces.writing.recording import Plan, contents, play, reference

PLAN = Plan("", (1, 0, 2), (0, 1))
MODELS = tuple(itertools.product(("names that were synced", "all names"), ("bytes that were synced", "all bytes")))


class Disk:
    """What ``os.fsync`` has put on the disk below ``root``: the bytes of files, and the names in folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.held: list[int] = []

    def fsync(self, descriptor: int) -> None:
        """Take the place of ``os.fsync``. The inode is held, so that no later file has its number."""
        self.held.append(os.dup(descriptor))
        number = os.fstat(descriptor).st_ino
        # By its path, since it may be open for writing only.
        place = Path(f"/proc/self/fd/{descriptor}")
        if place.is_dir():
            self.names[number] = {path.name: path.stat().st_ino for path in place.iterdir()}
        else:
            self.bytes[number] = place.read_bytes()

    def cut(self, target: Path, model: tuple[str, str]) -> None:
        """Write into ``target`` what a power cut would leave now."""
        files: dict[int, bytes] = {}
        folders: dict[int, dict[str, int]] = {}
        for path in [self.root, *self.root.rglob("*")]:
            number = path.stat().st_ino
            if path.is_dir():
                folders[number] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
            else:
                files[number] = path.read_bytes()
        names = folders if model[0] == "all names" else self.names
        data = {**self.bytes, **files} if model[1] == "all bytes" else self.bytes
        known = {*folders, *self.names}

        def put(number: int, place: Path) -> None:
            if number in known:
                place.mkdir(exist_ok=True)
                for name, child in names.get(number, {}).items():
                    put(child, place / name)
            else:
                # A length may be there before the bytes are.
                size = len(files.get(number, b""))
                place.write_bytes(data.get(number, b"").ljust(size, b"\0"))

        put(self.root.stat().st_ino, target)

    def close(self) -> None:
        """Let the inodes go."""
        for descriptor in self.held:
            os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    yield disk
    disk.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads files by their descriptors in /proc")
@pytest.mark.parametrize("model", MODELS, ids=", ".join)
def test_power_cut_at_every_fsync(
    tmp_path: Path, disk: Disk, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, report, images = replace(PLAN, folder=str(disk.root)), {"sure": 0}, []

    def snap() -> None:
        images.append((tmp_path / str(len(images)), report["sure"]))
        images[-1][0].mkdir()
        disk.cut(images[-1][0], model)

    def fsync(descriptor: int) -> None:
        snap()
        disk.fsync(descriptor)
        snap()

    monkeypatch.setattr(os, "fsync", fsync)
    play(plan, {}, report)
    snap()
    monkeypatch.setattr(os, "fsync", lambda _: None)

    expected = reference(PLAN)
    assert len(images) > 40
    assert contents(images[-1][0] / "trace") == expected
    for image, sure in images:
        again = replace(PLAN, folder=str(image))
        if not again.path.exists():
            after: dict[str, Any] = {}
            play(again, {}, after)
            assert after["resumed"] >= sure
        assert contents(again.path) == expected
