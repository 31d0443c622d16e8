"""Where a trace is made before it gets its name: a throw-away folder, or one that outlives its process."""

import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from traces.format.layout import MANIFEST_FILE
from traces.format.manifest import KNOWN_FILES
from traces.format.reader import DATA
from traces.kit.errors import TraceError, one_of
from traces.kit.whole import JOURNAL, held, publish, sync_path, temporary
from traces.writing.journal import NEXT_JOURNAL, Checkpoint, as_json, damaged, read_journal, write_journal


class Scratch:
    """A folder of a random name beside ``path``, for a trace that is written in one go."""

    last: Checkpoint | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_place(path)
        self.folder = temporary(path)
        with _can_be_made(path):
            self.folder.mkdir()

    def publish(self, manifest: bytes) -> None:
        """Add ``trace.json`` and give the folder its name."""
        (self.folder / MANIFEST_FILE).write_bytes(manifest)
        refuse_existing(self.path)
        publish(self.folder, self.path)

    def discard(self) -> None:
        shutil.rmtree(self.folder)

    def release(self) -> None:
        """Do nothing: nobody else can know the folder."""


class Partial(Scratch):
    """The folder ``.NAME.partial`` beside ``path``, where a recording survives its process.

    It holds ``journal.json`` and, in ``unfinished/``, the files of the trace. That inner folder becomes
    ``path`` by one rename, so whenever the process is killed there is the journal with the files it speaks
    of, or the finished trace. ``last`` is the checkpoint to go on from, or None.

    One process at a time holds the folder, by the lock ``.NAME.partial.lock`` beside it.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], files: Collection[str]) -> None:
        self.path, self._facts = path, as_json(facts)
        self.place = path.with_name(f".{path.name}.partial")
        self.folder = self.place / DATA
        with _can_be_made(path), ExitStack() as stack:
            try:
                stack.enter_context(held(path.with_name(f"{self.place.name}.lock"), wait=False))
            except BlockingIOError:
                raise TraceError(f"{self.place}: another process records there; allowed: one at a time") from None
            if not os.path.lexists(self.place):
                refuse_existing(path)
                self.place.mkdir()
            self.last = self._look(files)
            self._lock = stack.pop_all()

    def save(self, checkpoint: Checkpoint) -> None:
        """Put ``checkpoint`` into the journal; the files must be on the disk already."""
        sync_path(self.folder)
        write_journal(self.place, self._facts, checkpoint)
        sync_path(self.place.parent)

    def publish(self, manifest: bytes) -> None:
        """Add ``trace.json``, give the files their place at ``path`` and remove the rest."""
        super().publish(manifest)
        self.discard()

    def discard(self) -> None:
        shutil.rmtree(self.place)
        self.release()

    def release(self) -> None:
        """Let others have the folder; it stays as it is."""
        self._lock.close()

    def _look(self, files: Collection[str]) -> Checkpoint | None:
        """Return the last checkpoint, or leave an empty inner folder where there is nothing to go on from."""
        if not stat.S_ISDIR(self.place.lstat().st_mode):
            raise damaged(self.place, "kind", "no folder", "a folder; links are not followed")
        found = {entry.name for entry in self.place.iterdir()}
        for name in sorted(found - {JOURNAL, NEXT_JOURNAL, DATA}):
            raise damaged(self.place, "name", name, one_of((JOURNAL, DATA)))
        if os.path.lexists(self.path):
            if DATA not in found:
                # The process that finished this trace was killed before it had tidied up.
                shutil.rmtree(self.place)
            refuse_existing(self.path)
        if {JOURNAL, DATA} <= found:
            last = read_journal(self.place, self._facts, files)
            # trace.json: of a close() that was cut off; the next one replaces it.
            self._check_data((MANIFEST_FILE, *files))
            return last
        if DATA in found:
            self._check_data((MANIFEST_FILE, *KNOWN_FILES))
            shutil.rmtree(self.folder)
        # Of a trace that was finished, and is no longer there. It must be gone before there are files again.
        (self.place / JOURNAL).unlink(missing_ok=True)
        sync_path(self.place)
        self.folder.mkdir()
        return None

    def _check_data(self, allowed: Collection[str]) -> None:
        if not stat.S_ISDIR(self.folder.lstat().st_mode):
            raise damaged(self.place, DATA, "no folder", "a folder; links are not followed")
        for entry in self.folder.iterdir():
            if entry.name not in allowed or not stat.S_ISREG(entry.lstat().st_mode):
                raise damaged(self.place, DATA, entry.name, f"regular files only: {one_of(allowed)}")


def refuse_existing(path: Path) -> None:
    # A rename replaces an empty folder without a word.
    if os.path.lexists(path):
        raise TraceError(f"{path}: exists already; allowed: a folder that is yet to be made")


def refuse_place(path: Path) -> None:
    """Refuse a place where a trace cannot come to lie: something is there, or its folder is missing."""
    with _can_be_made(path):
        refuse_existing(path)


@contextmanager
def _can_be_made(path: Path) -> Iterator[None]:
    """TraceError for an OSError in this block; it names the trace ``path``, which the user knows."""
    if not path.parent.is_dir():
        raise TraceError(f"{path.parent}: no such folder; allowed: an existing one for the trace to lie in")
    try:
        yield
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; allowed: a place that can be written") from None
