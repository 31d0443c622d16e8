"""The host's memory: how much of it is free, and blocks of it, exactly as large as they are asked for."""

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from traces.kit.errors import UserError
from traces.kit.units import format_bytes

ROOM = 0.95
"""Share of the host memory that is free which weights may take."""
STEP = 4 * 10**9
"""Bytes that are touched between two looks at what is still free."""
LEAST = 256 * 10**6
"""What a machine that is to grow must show twice of."""
PATIENCE_S = 10
"""How long a machine that is to have more than it shows may take to show the next step."""
SLICE = 64 << 20
"""Bytes that a thread touches, or copies, at a time."""
_MOST_THREADS = 16
_ROOT = Path("/")


def free_memory(root: Path = _ROOT) -> int:
    """Bytes of host memory that are free, or can be freed: of the machine, within the limits of its control groups."""
    return min([_machine(root), *_groups(root)])


@dataclass(frozen=True)
class Host:
    """The host memory that a model may take.

    `given`: what the user says that there is, in the place of what is shown as free: a virtual machine may be given its
    memory only as it uses it. `free`: bytes that are free now. `wait`: sleeps for so many seconds.
    """

    given: int | None = None
    free: Callable[[], int] = free_memory
    wait: Callable[[float], None] = time.sleep

    def check(self, nbytes: int, what: str = "the experts") -> None:
        """UserError unless there is room for `nbytes`, before any of them is allocated."""
        if self.given is not None:
            if nbytes > self.given:
                raise UserError(
                    f"host_memory={format_bytes(self.given)}: {what} take {format_bytes(nbytes)};"
                    " allowed: a model that fits"
                )
        elif nbytes > ROOM * (free := self.free()):
            raise UserError(
                f"{what} take {format_bytes(nbytes)} of host memory, and {format_bytes(free)} are free;"
                " allowed: a model that fits, or host_memory=SIZE where the machine has more than it shows"
            )

    def blocks(self, nbytes: int, count: int) -> Iterator[Tensor]:
        """`count` blocks, uint8 [nbytes], one after the other as they are asked for: page-aligned, zero, and touched.

        Each is memory of its own, given back when nothing refers to it any more. UserError where the machine has no
        more: it is asked before every step, as it would end a process that touches what it has not got.
        """
        for number in range(count):
            yield self._block(nbytes, number * nbytes, count * nbytes)

    def _block(self, nbytes: int, had: int, asked: int) -> Tensor:
        try:  # private: shared anonymous memory is a file's, and counts as such
            mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise self._too_small(asked, had, f"the system refuses more ({error})") from None
        pages, first = np.frombuffer(mapping, np.uint8), 0
        while first < nbytes:
            free, step = self._next_step(nbytes - first)
            if not step:
                raise self._too_small(asked, had + first, f"{format_bytes(free)} are free")
            touch(pages[first : first + step])
            first += step
        return torch.frombuffer(mapping, dtype=torch.uint8)  # it holds the mapping, which ends with it

    def _next_step(self, left: int) -> tuple[int, int]:
        """Bytes that are free, and how many of those `left` may be touched now; 0: the machine has no more."""
        for _ in range(4 * PATIENCE_S):
            free, step = self.free(), min(left, STEP)
            if self.given is None:
                return free, step if step <= ROOM * free else 0
            step = min(step, max(free // 2, LEAST))  # it is to grow: half of what it shows, and another look
            if step <= free // 2:
                return free, step
            self.wait(0.25)
        return free, 0

    def _too_small(self, asked: int, had: int, why: str) -> UserError:
        given = f"host_memory={format_bytes(self.given)}: " if self.given is not None else ""
        return UserError(
            f"{given}the experts take {format_bytes(asked)} of host memory: {format_bytes(had)} were had, and {why};"
            " allowed: a model that fits"
        )


SHOWN = Host()
"""The host with what it shows as free."""


def touch(pages: np.ndarray) -> None:
    """Write a zero to each page of `pages`, uint8 [n], on several threads: the system clears it at the first write."""
    in_parallel(lambda first, end: pages[first : end : mmap.PAGESIZE].fill(0), len(pages), SLICE)


def in_parallel(work: Callable[[int, int], object], n: int, slice_: int) -> None:
    """Call `work(first, end)` for slices of range(n) on the CPUs of this process; NumPy lets go of the interpreter."""
    starts = range(0, n, slice_)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(cpus, _MOST_THREADS)) as threads:
        list(threads.map(work, starts, (min(first + slice_, n) for first in starts)))  # raises what a slice has raised


def trim() -> None:
    """Give back what the heap keeps of tensors that are gone: those of a few MB have no mappings of their own."""
    with suppress(AttributeError, OSError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def _machine(root: Path) -> int:
    if (available := _fields(root / "proc/meminfo").get("MemAvailable:")) is not None:
        return available * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path) -> Iterator[int]:
    """What each control group of this process, and each that it lies in, has left; files' pages can be dropped."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
            limit, usage, kinds = "memory.max", "memory.current", ("inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            bases = [root / "sys/fs/cgroup/memory"]
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            kinds = ("total_inactive_file", "total_active_file")
        else:
            continue
        for base in bases:
            own = base / path.lstrip("/")  # in a container it may be named as outside: then its own root counts
            for folder in [own, *own.parents][: len(own.parts) - len(base.parts) + 1]:
                at_most, used = _number(folder / limit), _number(folder / usage)
                if at_most is not None and used is not None:
                    stat = _fields(folder / "memory.stat")
                    yield max(0, at_most - used + sum(stat.get(kind, 0) for kind in kinds))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:  # there is none
        return ""


def _number(file: Path) -> int | None:
    text = _read(file).strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _fields(file: Path) -> dict[str, int]:
    """The numbers of a file of lines `NAME NUMBER ...`."""
    lines = [line.split() for line in _read(file).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
