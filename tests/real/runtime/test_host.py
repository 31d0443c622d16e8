"""How much memory the host has, and that blocks of it are taken step by step, exactly, and never beyond what it has."""

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch

from real.runtime import host as module
from real.runtime.host import Host, free_memory, in_parallel
from traces.kit.errors import UserError

GB = 10**9

# -- what is free -------------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, Any], groups: str = "0::/") -> Path:
    """A system's files below `root`: 100 GB are available."""
    there = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {100 * GB // 1024} kB", "proc/self/cgroup": groups}
    for name, content in (there | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def v2(folder: str, limit: Any, used: int, stat: str = "") -> dict[str, Any]:
    """The files of a control group below the root of them all: its limit, what it uses, and of what kinds that is."""
    names = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    return {f"sys/fs/cgroup/{folder}/{name}": content for name, content in names.items()}


def v1(folder: str, limit: int, used: int, stat: str = "") -> dict[str, Any]:
    names = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
    return {f"sys/fs/cgroup/memory/{folder}/{name}": content for name, content in names.items()}


CACHED = "anon 5\nactive_file 1000000000\ninactive_file 2000000000\nfile 9000000000\nshmem 9000000000"


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/", {}, 100),
        ("0::/a/b", v2("a/b", "max", 5), 100),
        ("0::/a/b", v2("a/b", 8 * GB, 6 * GB), 2),
        ("0::/a/b", v2("a", 8 * GB, 7 * GB), 1),
        ("0::/named/outside", v2(".", 8 * GB, 5 * GB), 3),
        ("0::/a", v2("a", 8 * GB, 7 * GB, CACHED), 4),
        ("0::/a", v2("a", 8 * GB, 9 * GB), 0),
        ("0::/a", v2("a", 800 * GB, 9 * GB), 100),
        ("3:cpu,cpuacct:/x\n2:memory:/a", v1("a", 8 * GB, 6 * GB), 2),
        ("2:memory:/docker/1", v1(".", 8 * GB, 6 * GB, "inactive_file 1\ntotal_inactive_file 1000000000"), 3),
        ("2:memory:/", v1(".", 2**63 - 4096, 6 * GB), 100),
    ],
)
def test_a_control_group_is_part_of_what_is_free(groups: str, files: dict[str, Any], free: int, tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path, files, groups)) // 1024 == free * GB // 1024


def test_this_machine_has_some() -> None:
    assert 1 << 20 < free_memory() < 1 << 50


# -- taking it ----------------------------------------------------------------------------------------------------


class Machine:
    """A host that has so many bytes, shows at first so many as free, and more as they are used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, has: int, shows: int, grows: int = 0) -> None:
        self.has, self.shown, self.grows, self.used, self.waited = has, shows, grows, 0, 0.0
        self.steps: list[int] = []
        monkeypatch.setattr(module, "touch", self.touch)

    def touch(self, pages: Any) -> None:
        assert len(pages) <= self.free(), "a process that does so is killed"
        self.steps.append(len(pages))
        self.used += len(pages)

    def free(self) -> int:
        return min(self.shown, self.has) - self.used

    def wait(self, seconds: float) -> None:
        self.waited += seconds
        self.shown += self.grows

    def host(self, given: int | None = None) -> Host:
        return Host(given, self.free, self.wait)


def test_memory_is_touched_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machine(monkeypatch, 24 * GB, 24 * GB)
    assert [len(block) for block in there.host().blocks(9 * GB, 2)] == [9 * GB] * 2
    assert there.steps == [4 * GB, 4 * GB, GB] * 2


def test_memory_that_others_take_meanwhile_is_missed_before_it_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machine(monkeypatch, 24 * GB, 24 * GB)
    blocks = there.host().blocks(10 * GB, 2)
    next(blocks)
    there.used += 9 * GB
    with pytest.raises(UserError, match=r"^the experts take 20 GB of host memory: 14 GB were had, and 1 GB are free;"):
        next(blocks)
    assert there.waited == 0, "it is what it shows: nothing is to come"


def test_a_machine_that_grows_with_use_is_used_as_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows 20 of 128 GB: without host_memory= the model is refused, with it the memory comes step by step."""
    there = Machine(monkeypatch, 128 * GB, 20 * GB, 2 * GB)
    with pytest.raises(UserError, match=r"take 93 GB of host memory, and 20 GB are free; .* host_memory=SIZE"):
        there.host().check(93 * GB)
    host = there.host(110 * GB)
    host.check(93 * GB)
    assert sum(len(block) for block in host.blocks(93 * GB // 31, 31)) == 93 * GB
    assert there.used == 93 * GB
    assert max(there.steps) <= 4 * GB
    with pytest.raises(UserError, match=r"^host_memory=110 GB: the experts take 111 GB; allowed: a model that fits$"):
        host.check(111 * GB)


def test_a_machine_that_has_not_what_the_user_says_stops_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machine(monkeypatch, 40 * GB, 20 * GB, GB)
    said = r"^host_memory=110 GB: the experts take 93 GB of host memory: 3\d.\d GB were had, and \d+ MB are free;"
    with pytest.raises(UserError, match=said) as caught:
        list(there.host(110 * GB).blocks(93 * GB // 31, 31))
    assert "\n" not in str(caught.value)
    assert there.free() >= GB // 4, "the rest of the machine lives on"
    assert there.waited >= module.PATIENCE_S


def test_an_address_space_that_ends_is_one_line() -> None:
    said = r"the experts take .* of host memory: 0 B were had, and the system refuses more"
    with pytest.raises(UserError, match=said):
        next(Host().blocks(1 << 62, 1))


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 4097, 3 * 4096 * 1000 + 7])
def test_a_block_has_its_size_and_begins_a_page(nbytes: int) -> None:
    first, second = Host().blocks(nbytes, 2)
    for block in (first, second):
        assert block.untyped_storage().nbytes() == block.numel() == nbytes
        assert block.data_ptr() % mmap.PAGESIZE == 0
        assert not block.any()
    first[-1] = 1
    assert not second.any()


def test_every_page_is_touched_by_the_threads_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 3 * mmap.PAGESIZE)
    pages = torch.full((20 * mmap.PAGESIZE + 1,), 7, dtype=torch.uint8)
    module.touch(pages.numpy())
    assert (pages[:: mmap.PAGESIZE] == 0).all()
    assert (pages == 0).sum() == 21


def test_what_fails_on_a_thread_fails() -> None:
    def work(first: int, end: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_parallel(work, 10, 3)
