"""How much memory this process takes, and took at the most since it was last asked to forget."""

from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def taken() -> int:
    """Bytes of the process in memory now, pages of files that it has mapped included; 0 where no system says it."""
    return _field("VmRSS:")


def most() -> int:
    """The most that :func:`taken` was since the process began, or since :func:`forget`.

    Not getrusage's: that begins with what the process had that started this one.
    """
    return _field("VmHWM:")


def forget() -> bool:
    """Have :func:`most` begin anew; whether the system does so."""
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
        return True
    return False


def forget_device(device: torch.device) -> None:
    """The same of :func:`most_on_device`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def most_on_device(device: torch.device) -> int | None:
    """The most bytes that tensors had on a GPU; None on a CPU, whose tensors lie in the process's memory."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def _field(name: str) -> int:
    """Of the process's status, which has it in units of 1,024 bytes."""
    with suppress(OSError):
        for line in (PROCESS / "status").read_text(encoding="ascii").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
