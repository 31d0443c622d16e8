"""Is the machine fit for this: versions, memory, the CUDA paths on a tiny model. Stops the run where it is not."""

import importlib
import platform
import re
import time
from collections.abc import Callable
from functools import partial

import torch

from real.measure.bench import Bench
from real.runtime.host import Host
from real.runtime.models import Where
from real.runtime.recorded import run_forced
from real.runtime.selfcheck import CHECKS, ONLY_CUDA
from real.runtime.store import PageLocks
from real.words import one_run
from sim.core.log import replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.prices import shipped
from traces.calibrate.timing import Clock, measure
from traces.kit.errors import UserError
from traces.kit.telling import in_short, say
from traces.kit.units import format_bytes

NEEDS = {"python": "3.11", "torch": "2.11", "transformers": "5.17", "numpy": "2.0", "yaml": "6", "safetensors": "0.5"}
"""The least versions, as pyproject.toml has them."""
BELOW = {"torch": "2.14", "transformers": "6"}
COPY_BYTES = 12_582_912
"""One expert of OLMoE-1B-7B in bfloat16."""
ROOM = 2 * 10**9
"""Host memory beside the experts."""
SLOW = ("copies overlap compute", "pinned and registered")
"""What is off by its speed alone: that is said, and measured all the same."""


def run(bench: Bench) -> str:
    """All checks, each reported; UserError, the last line of the report, where one is off: ``preflight.json``."""
    found = []
    for name, check in _checks(bench):
        began, ok = time.monotonic(), True
        try:
            said = check()
        except Exception as error:  # whatever it is: the other checks are still to be heard
            ok, said = False, in_short(error, kind=True)
        found.append({"name": name, "ok": ok, "said": said, "seconds": round(time.monotonic() - began, 2)})
        say(f"  {'ok ' if ok else 'OFF'} {name}: {said}")
    bench.write("preflight", found)
    if wrong := [f"{it['name']}: {it['said']}" for it in found if not it["ok"] and it["name"] not in SLOW]:
        raise UserError(
            f"the machine is not fit: {'; '.join(wrong)}; allowed: only= with other steps, which goes on all the same"
        )
    slow = [str(it["name"]) for it in found if not it["ok"]]
    return f"{len(found)} checks" + (f"; off: {', '.join(slow)}" if slow else "")


def _checks(bench: Bench) -> list[tuple[str, Callable[[], str]]]:
    device, cuda = bench.device, bench.device.type == "cuda"
    names = [name for name in CHECKS if cuda or name not in ONLY_CUDA]
    return [
        ("versions", versions),
        ("device", lambda: _device(device)),
        ("host memory", lambda: _host(bench)),
        *((name.replace("_", " "), partial(_checked, CHECKS[name], device)) for name in names),
        *([("pinned and registered", partial(_registered, device))] if cuda else []),
        ("reference model", lambda: _reference(bench)),
    ]


def _checked(check: Callable[[torch.device], None], device: torch.device) -> str:
    check(device)
    return "as it should"


def versions() -> str:
    """What is installed, in words. UserError for a version that this does not run on."""
    words = []
    for name, least in NEEDS.items():
        version = platform.python_version() if name == "python" else importlib.import_module(name).__version__
        below = BELOW.get(name)
        if _number(version) < _number(least) or (below and _number(version) >= _number(below)):
            raise UserError(f"{name} {version}; allowed: {least} or newer{f', below {below}' if below else ''}")
        words.append(f"{name} {version}")
    try:
        words.append(f"accelerate {importlib.import_module('accelerate').__version__}")
    except ImportError:
        words.append("accelerate is not installed: its row will be left out")
    return ", ".join(words)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return "the CPU"
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"{about.name}, compute capability {about.major}.{about.minor}, CUDA {torch.version.cuda},"
        f" {format_bytes(free)} of {format_bytes(total)} free"
    )


def _host(bench: Bench) -> str:
    """Touch as much as the experts will take, in steps: a machine that has not got it says so, and grows if it can."""
    host = Host(bench.host_memory)
    subject, profile = bench.size.main, bench.size.main.profile()
    nbytes = int(profile["moe_layers"] * profile["experts"] * profile["expert_bytes"][subject.dtype])
    host.check(nbytes + ROOM, "the experts and all else")
    began = time.monotonic()
    block = next(host.blocks(nbytes, 1))
    seconds = time.monotonic() - began
    del block
    return f"{format_bytes(nbytes)} touched in {seconds:.1f} s, {format_bytes(host.free())} free afterwards"


def _registered(device: torch.device) -> str:
    """Registered memory must be copied as fast as torch's own pinned memory is."""
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    clock, locks, rates = Clock(device), PageLocks(), dict[str, float]()
    block = next(Host().blocks(COPY_BYTES, 1))
    try:
        locks.lock(block)
        for name, source in (("pinned", torch.empty_like(block).pin_memory()), ("registered", block)):
            if not source.is_pinned():
                raise UserError(f"{name} memory is not page-locked for torch")
            took = measure(lambda n, it=source: clock.device_ns(lambda _: target.copy_(it, non_blocking=True), n), 0.5)  # type: ignore[misc]
            rates[name] = COPY_BYTES / took.median
    finally:
        locks.close()
    said = f"pinned {rates['pinned']:.1f} GB/s, registered {rates['registered']:.1f} GB/s"
    if rates["registered"] < 0.8 * rates["pinned"]:
        raise UserError(f"{said}: registered memory is copied more slowly")
    return said


def _reference(bench: Bench) -> str:
    """The reference model, one request under lru: the device's log, replayed, must give the device's decisions."""
    model = Where(str(bench.device)).open("reference", "float32")
    config = one_run("lru", "25%", shipped("model", "reference"), bench.profile(), "sample", limit=1)
    cell = make_cell(config, bench.inputs)
    try:
        done = run_forced(cell, model, make_policy(cell))
        if replay(done.core.log, make_core(cell, make_policy(cell))) != done.core.digest():
            raise UserError("the replay of the device's log decides differently")
    finally:
        model.store.close()
    return f"{done.outcome.generated} tokens, the replay agrees"
