"""Files and folders are there whole, or as they were: whatever fails, whoever is killed, and if the power goes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from traces.kit.errors import UserError
from traces.kit.whole import ABANDONED_S, JOURNAL, held, remove_abandoned, scratch, whole, writable, write_whole

ROOT = Path(__file__).parents[3]


def lay(part: Path, kind: str, text: str) -> None:
    if kind == "file":
        part.write_text(text)
    else:
        part.mkdir()
        (part / "a").write_text(text)
        (part / "inner").mkdir()
        (part / "inner" / "b").write_text(text)


def holds(path: Path, kind: str) -> str | None:
    """The text of a whole file or folder; None where there is nothing. An incomplete one is a failure."""
    if not path.exists():
        return None
    (text,) = {path.read_text()} if kind == "file" else {(path / name).read_text() for name in ("a", "inner/b")}
    return text


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_changes_nothing(tmp_path: Path, kind: str, before: bool, error: BaseException) -> None:
    path = tmp_path / "it"
    if before:
        lay(path, kind, "old")
    with pytest.raises(type(error)), whole(path, over=True) as part:  # noqa: PT012
        lay(part, kind, "new")
        raise error
    assert holds(path, kind) == ("old" if before else None)
    assert len(list(tmp_path.iterdir())) == before
    with whole(path, over=True) as part:
        lay(part, kind, "new")
    assert holds(path, kind) == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_another_only_if_told_to(tmp_path: Path) -> None:
    lay(tmp_path / "it", "folder", "old")
    with pytest.raises(OSError, match="not empty") as caught, whole(tmp_path / "it") as part:
        lay(part, "folder", "new")
    assert caught.value.filename == str(tmp_path / "it")
    assert holds(tmp_path / "it", "folder") == "old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_before_every_call_to_the_system(tmp_path: Path, kind: str) -> None:
    """There is the old one or the new; or none, but both beside it, in the middle of the exchange of two folders."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.traces.kit.test_whole import lay\n"
        "from traces.kit.whole import whole\n"
        "def point(_, event, call):\n"
        "    global left\n"
        "    left -= event == 'c_call' and getattr(call, '__module__', None) == 'posix'\n"
        "    if left < 0: os._exit(1)\n"
        "root, kind = Path(sys.argv[1]), sys.argv[2]\n"
        "for left in range(100):\n"
        "    folder = root / f'{left:03}'\n"
        "    folder.mkdir()\n"
        "    lay(folder / 'it', kind, 'old')\n"
        "    if not os.fork():\n"
        "        sys.setprofile(point)\n"
        "        with whole(folder / 'it', over=True) as part: lay(part, kind, 'new')\n"
        "        sys.setprofile(None)\n"
        "        os._exit(0)\n"
        "    if not os.wait()[1]: break\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path), kind], env=environment, check=True)
    found = []
    for folder in sorted(tmp_path.iterdir()):
        found.append(holds(folder / "it", kind))
        if found[-1] is None:
            assert {holds(path, kind) for path in folder.iterdir()} == {"old", "new"}
        with whole(folder / "it", over=True) as part:
            lay(part, kind, "again")
        assert holds(folder / "it", kind) == "again"
    assert len(found) > (8 if kind == "file" else 20)
    assert found[0] == "old"
    assert found[-1] == "new"
    assert found.count(None) == 0 if kind == "file" else 1 <= found.count(None) <= 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_of_it_is_on_the_disk_before_its_name_is_and_then_the_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    path = tmp_path / "it"

    def sync(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    with whole(path) as part:
        lay(part, kind, "new")
    inner = [part] if kind == "file" else [part, part / "a", part / "inner", part / "inner" / "b"]
    assert sorted(synced[:-1]) == sorted((str(each), False) for each in inner)
    assert synced[-1] == (str(tmp_path), True)
    synced.clear()
    write_whole(tmp_path / "other", "x", sync=False)
    assert not synced


def test_who_comes_next_removes_what_was_killed_and_nothing_of_the_living(tmp_path: Path) -> None:
    path, old = tmp_path / "it[1]", time.time() - ABANDONED_S - 60

    def aged(name: str, *names: str) -> Path:
        """A folder with files in it, the first of which alone is young."""
        folder = tmp_path / name
        folder.mkdir()
        for file in names:
            (folder / file).write_text("")
            os.utime(folder / file, (old, old) if file != "young" else None)
        os.utime(folder, (old, old))
        return folder

    gone = aged(".it[1].0123abcd.partial", "a")
    (file := tmp_path / ".it[1].99999999.partial").write_text("")
    os.utime(file, (old, old))
    (tmp_path / ".it[1].11111111.partial").symlink_to("nowhere")  # listed, and young
    kept = [
        aged(".it[1].0123abce.partial", "a", "young"),
        aged(".it[1].0123abcf.partial", JOURNAL),
        aged(".it[1].partial", "a"),
        aged(".it[1].0123.partial"),
        aged("it[1].0123abcd.partial"),
        aged(".it1.0123abcd.partial"),
    ]
    write_whole(path, "x")
    assert not gone.exists()
    assert not file.exists()
    assert all(folder.exists() for folder in kept)
    remove_abandoned(tmp_path)
    assert [folder.exists() for folder in kept] == [True] * 5 + [False]
    remove_abandoned(tmp_path / "nowhere")


def test_errors_name_what_the_user_knows(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "it", tmp_path / "file" / "it"):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="it") as caught:
            write_whole(path, "x")
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, whole(tmp_path / "it") as part:
        (tmp_path / "another").read_text()
    assert caught.value.filename == str(tmp_path / "another")
    assert not part.exists()
    with pytest.raises(UserError, match=r"^out=x: cannot be written \(Not a directory\)$"), writable("out=x"):
        write_whole(tmp_path / "file" / "it", "x")


def test_a_scratch_folder_goes_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch(tmp_path / "it") as folder:  # noqa: PT012
        assert list(tmp_path.iterdir()) == [folder]
        (folder / "a").write_text("x")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_one_holds_a_lock_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from traces.kit.whole import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), held(lock, wait=False):
            pass
        assert lock.exists(), "who did not get it leaves it"
        process.kill()
    with held(lock, wait=False):
        pass
    assert not lock.exists()
    with pytest.raises(FileExistsError), held(Path(__file__) / "lock"):
        pass


def test_where_there_are_no_locks_nobody_is_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock.acquire", Mock(side_effect=OSError(37, "No locks available")))
    with held(tmp_path / "lock"):
        pass
