"""What was measured on, and its bare rates."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import transformers

from traces.calibrate.copies import multiply, reader
from traces.calibrate.plan import Part, Timed, measured
from traces.calibrate.timing import Budget, Clock
from traces.models.devices import device_name, host_bytes

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,pcie.link.gen.current"
RATED = ("bfloat16", "float16", "float32")
RATE_POINTS = 6
KERNELS = 100  # launched in a row


def now() -> str:
    """The date and time of a measurement, as documents have it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(device: torch.device) -> dict[str, str]:
    """Device, host and versions, as found; every value is a text."""
    found = {
        "device": device_name(device),
        "host": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores, {host_bytes()} bytes",
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
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host_bytes()


def rate_parts(clock: Clock, largest: int) -> list[Part]:
    """A copy within the device's memory, a matrix product by dtype, a sum over host memory, a small kernel."""
    elements, width = _amounts(clock, largest)

    def copied() -> Timed:
        source, target = (torch.rand(elements, device=clock.device) for _ in range(2))
        return partial(clock.device_ns, lambda i: target.copy_(source))

    def product(dtype: str) -> Timed:
        return partial(clock.device_ns, multiply(clock.device, getattr(torch, dtype), width))

    def read() -> Timed:
        return partial(Clock(torch.device("cpu")).wall_ns, reader(largest))

    def kernel() -> Timed:
        one = torch.ones(1, device=clock.device)
        return lambda n: clock.wall_ns(lambda i: one.add_(1), KERNELS * n) / KERNELS

    products = (Part(dtype, {}, partial(product, dtype)) for dtype in RATED)
    return [Part("hbm", {}, copied), *products, Part("dram", {}, read), Part("kernel", {}, kernel)]


def rates(clock: Clock, largest: int, budget: Budget) -> dict[str, float]:
    """hbm_gb_per_s (read and written), TFLOP/s by dtype, dram_gb_per_s, and the launch of a kernel in ns."""
    elements, width = _amounts(clock, largest)
    found = {part.name: measured(part, budget)[0].median for part in rate_parts(clock, largest)}
    return {
        "hbm_gb_per_s": 8 * elements / found["hbm"],
        **{dtype: 2 * width**3 / found[dtype] / 1000 for dtype in RATED},
        "dram_gb_per_s": largest / found["dram"],
        "kernel_ns": found["kernel"],
    }


def _amounts(clock: Clock, largest: int) -> tuple[int, int]:
    """Floats that are copied, and the width of the matrices."""
    return (largest, 8192) if clock.cuda else (largest // 4, 512)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
