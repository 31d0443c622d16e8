"""What was measured on, and its bare rates."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
import transformers

from traces.calibrate.copies import multiply, reader
from traces.calibrate.timing import Budget, Clock, measure

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,pcie.link.gen.current"
RATED = ("bfloat16", "float16", "float32")
RATE_POINTS = 6


def describe(device: torch.device) -> dict[str, str]:
    """Device, host and versions, as found; every value is a text."""
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "host": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores, {_host_bytes()} bytes",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} CPU threads",
        "transformers": transformers.__version__,
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
    return found | clocks("as found")


def clocks(when: str) -> dict[str, str]:
    """What nvidia-smi says of driver, clocks and link; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return {f"nvidia-smi {when}": f"failed: {type(error).__name__}"}
    return {f"nvidia-smi {when}": f"{QUERY}: {' '.join(answer.stdout.split())}"}


def memory_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else _host_bytes()


def rates(clock: Clock, largest: int, budget: Budget) -> dict[str, float]:
    """hbm_gb_per_s (read and written), TFLOP/s by dtype, dram_gb_per_s, and the launch of a kernel in ns."""
    elements = (largest * (4 if clock.cuda else 1)) // 4
    source, target = (torch.rand(elements, device=clock.device) for _ in range(2))
    copied = measure(lambda n: clock.device_ns(lambda i: target.copy_(source), n), budget.share())
    found = {"hbm_gb_per_s": 8 * elements / copied.median}
    width = 8192 if clock.cuda else 512
    for name in RATED:
        product = multiply(clock.device, getattr(torch, name), width)
        took = measure(lambda n, product=product: clock.device_ns(product, n), budget.share())  # type: ignore[misc]
        found[name] = 2 * width**3 / took.median / 1000
    read = reader(largest)
    found["dram_gb_per_s"] = largest / measure(lambda n: Clock(torch.device("cpu")).wall_ns(read, n), 0.2).median
    one = torch.ones(1, device=clock.device)
    found["kernel_ns"] = measure(lambda n: clock.wall_ns(lambda i: one.add_(1), 100 * n) / 100, 0.2).median
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
