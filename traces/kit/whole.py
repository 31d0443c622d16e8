"""Files and folders that are there whole or not at all: made under a temporary name beside their place, then renamed.

The name is ``.NAME.<8 hex digits>.partial``. What a killed process leaves of it goes when the next one makes the same
NAME, once nothing in it has changed for a week: by then nobody is at it. What was renamed also survives a power cut.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traces.kit.errors import UserError

ABANDONED_S = 7 * 86400.0
JOURNAL = "journal.json"
"""A folder that holds it is to outlive its process, and is nobody else's to remove."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def whole(path: Path, *, over: bool = False, sync: bool = True) -> Iterator[Path]:
    """Yield a free name beside ``path``, for a file or a folder; what is made there becomes ``path`` as the block ends.

    A file replaces another one, a folder only an empty one, or, if ``over``, any: killed between the two renames that
    this takes, ``path`` is gone, and both lie beside it. If the block raises, nothing has changed. ``sync``: wait for
    the disk. Raises OSError where it cannot be written, which names ``path``.
    """
    part = temporary(path)
    try:
        yield part
        publish(part, path, over=over, sync=sync)
    except OSError as error:
        # The user knows nothing of the other name.
        if error.errno is None or not str(error.filename or part).startswith(str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        _remove(part)


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """The file with this content, or as it was before; as :func:`whole`."""
    with whole(path, sync=sync) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, for what is needed on the way; it goes with the block."""
    folder = temporary(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


def temporary(path: Path) -> Path:
    """A name beside ``path`` that nobody has; what killed processes have left under such names goes."""
    remove_abandoned(path.parent, path.name)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def is_partial(path: Path) -> bool:
    """Whether something is being made under this name, or was until its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def publish(part: Path, path: Path, *, over: bool = False, sync: bool = True) -> None:
    """Rename ``part``, a file or a folder with all that is in it; see :func:`whole`."""
    if sync:
        for inner in (*part.rglob("*"), part):
            sync_path(inner)
    if not part.is_dir():
        part.replace(path)
    elif over and path.is_dir():
        _exchange(part, path)
    else:
        part.rename(path)
    if sync:
        sync_path(path.parent)


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left in ``folder`` of ``name``, or of anything."""
    spelling = re.compile(rf"\.{re.escape(name) or '.+'}\.[0-9a-f]{{8}}\.partial")
    with suppress(OSError):  # another process may be at the same
        for left in (path for path in folder.iterdir() if spelling.fullmatch(path.name)):
            with suppress(FileNotFoundError):
                changed = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
                if time.time() - changed > ABANDONED_S and not (left / JOURNAL).exists():
                    _remove(left)


def sync_path(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk. Windows orders names itself."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` during the block; a killed holder lets go. Where another process has it, wait for it,
    or raise BlockingIOError. Nobody is held up where the file system has no locks. OSError where it cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, "held by another process", str(path)) from None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # whoever waits for this one looks whether it is still there
        lock.release()


@contextmanager
def writable(what: str) -> Iterator[None]:
    """UserError for an OSError in this block: ``what`` cannot be written, and why."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # pyarrow has words of its own for it
        raise UserError(f"{what}: cannot be written ({why})") from None


def _exchange(part: Path, path: Path) -> None:
    old = temporary(path)
    try:
        path.rename(old)
        part.rename(path)
    finally:
        if old.is_dir() and not path.exists():
            old.rename(path)
        _remove(old)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
