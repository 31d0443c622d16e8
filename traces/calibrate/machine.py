"""The hardware profile of a machine: what was measured on, bare rates, constants with their sources, the tables."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from traces.calibrate.copies import multiply, reader
from traces.calibrate.plan import Part, Timed, measured
from traces.calibrate.tables import Rows, noise_of
from traces.calibrate.timing import Budget, Clock
from traces.kit.whole import write_whole
from traces.models.devices import device_name, host_bytes

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,pcie.link.gen.current"
RATED = ("bfloat16", "float16", "float32")
RATE_POINTS = 6
KERNELS = 100  # launched in a row
DEPTH = 2
OVER_LINK = "between host and GPU memory, over the link"
PAIR = (
    "an expert's bytes copied from pinned memory, and an expert on one token on so many threads of the CPU: each alone,"
    " and while the other goes on"
)
IN_MEMORY = "within CPU memory by one thread: no link"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(device: torch.device) -> dict[str, str]:
    """Device, host and versions, as found; every value is a text."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: *(.*?) *$", info.read_text() if info.exists() else "", re.MULTILINE)
    cpu = named[1] if named else platform.machine()
    found = {
        "device": device_name(device),
        "host": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {host_bytes()} bytes",
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


def assemble(
    name: str,
    date: str,
    machine: Mapping[str, str],
    device: torch.device,
    rates: Mapping[str, float],
    curves: Mapping[str, Rows],
    models: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The mapping that `hardware=FILE` takes; what a constant was derived from stands in `sources` and `derived`."""
    cuda = device.type == "cuda"
    tables = {key: rows.columns() for key, rows in curves.items()}
    h2d, overhead_us = _rate(tables["copy_h2d_pinned"])
    d2h, _ = _rate(tables["copy_d2h_pinned"])
    pageable, _ = _rate(tables["copy_h2d_pageable"])
    first = next(iter(models.values()), None)
    kernel_us, launch = rates["kernel_ns"] / 1000, "measured: 4 launches of a small kernel (no model was measured)"
    launch_us = 4 * kernel_us
    overhead = "not measured: no model was given"
    if first is not None:
        of = f"of {next(iter(models))}; every model's own is in models"
        launch_us = first["launch_ns"] / 1000
        launch = f"measured: an expert at one token, launched in a row, less the device's own time for it, {of}"
        overhead = f"measured: a decode layer of the library's loop less its device work, {of}"
        if not cuda:
            launch = overhead = "0: on a CPU nothing runs ahead, so that it is within the tables"
    best = "measured: best rate over the sizes of"
    return {
        "name": name,
        "provenance": "measured",
        "sources": {
            "memory_bytes": "measured: as the driver says" if cuda else "measured: memory of the host",
            "hbm_gb_per_s": "measured: a copy within the device's memory, bytes read and bytes written",
            "tflops": f"measured: a matrix product of width {8192 if cuda else 512} on random data",
            "launch_us": launch,
            "h2d_gb_per_s": f"{best} copy_h2d_pinned",
            "d2h_gb_per_s": f"{best} copy_d2h_pinned",
            "overhead_us": "measured: the smallest pinned copy less its bytes at h2d_gb_per_s, not below 0",
            "pageable_gb_per_s": f"{best} copy_h2d_pageable",
            "dram_gb_per_s": "measured: a sum over host memory on all of torch's threads",
        },
        "gpu": {
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else host_bytes(),
            "hbm_gb_per_s": _digits(rates["hbm_gb_per_s"]),
            "tflops": {dtype: _digits(rates[dtype]) for dtype in RATED},
            "launch_us": _digits(launch_us),
            "efficiency": {"flops": 1, "hbm": 1},
        },
        "link": {
            "h2d_gb_per_s": _digits(h2d),
            "d2h_gb_per_s": _digits(d2h),
            "overhead_us": _digits(overhead_us),
            "depth": DEPTH,
            "pageable_gb_per_s": _digits(pageable),
        },
        "host": {
            "dram_gb_per_s": _digits(rates["dram_gb_per_s"]),
            "cpu_threads": len(os.sched_getaffinity(0)),
            "predictor_threads": 1,
        },
        "software": {"layer_overhead_us": first["layer_overhead_ns"] / 1000 if first else 0, "policy_us": {}},
        "measured": {
            "date": date,
            "copies": OVER_LINK if cuda else IN_MEMORY,
            "machine": dict(machine),
            "derived": {
                "efficiency": "1: the rates are those reached, not peaks",
                "depth": f"{DEPTH}, a choice: the next copy is handed over before one ends, so they run back to back,"
                " as they were measured",
                "cpu_threads": "cores that this process may use",
                "predictor_threads": "1, a choice",
                "layer_overhead_us": overhead,
                **({} if first is None else {"pair": PAIR if cuda else f"{PAIR}; copies take a core of their own"}),
                "ns": "the medians; where one falls though the amount rises, neighbours are pooled to their own median",
            },
            **tables,
            "models": {key: dict(model) for key, model in models.items()} or None,
            "noise": noise_of(tables, models),
        },
    }


def _rate(table: Mapping[str, Any]) -> tuple[float, float]:
    """Best rate in GB/s over a table's sizes, and the overhead in us that this leaves for the smallest."""
    best = max(Fraction(n, ns) for n, ns in zip(table["bytes"], table["ns"], strict=True))
    return float(best), float(max(Fraction(0), table["ns"][0] - table["bytes"][0] / best) / 1000)


def _digits(value: float) -> float:
    return float(f"{value:.7g}")


def write(path: Path, profile: Mapping[str, Any], by: str = "traces calibrate") -> None:
    """Write the profile as YAML, whole or not at all. ``by``: the command whose profile it is."""
    text = yaml.safe_dump(dict(profile), sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)
    write_whole(path, f"# Written by python -m {by}. Times in ns, sizes in bytes.\n{text}")
