"""The machine alone: whether it is fit for this, its copies by size, one layer by tokens, and its profile so far."""

import importlib
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import torch

from real.measure.bench import Bench
from real.runtime.host import Host
from real.runtime.models import Where
from real.runtime.recorded import run_forced
from real.runtime.selfcheck import CHECKS, ONLY_CUDA
from real.runtime.store import PageLocks
from real.validation.bench import with_threads
from real.words import one_run
from sim.core.log import replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.prices import shipped
from traces.calibrate.copies import Copies
from traces.calibrate.layers import Grids, Layer
from traces.calibrate.machine import RATE_POINTS, assemble, clocks, describe, now, rates, write
from traces.calibrate.tables import Rows, Sample
from traces.calibrate.timing import Budget, Clock, measure
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


def preflight(bench: Bench) -> str:
    """Versions, memory, the CUDA paths on a tiny model, each reported: ``preflight.json``. UserError where one is off,
    the last line of the report: nothing that came after could be trusted."""
    found = []
    for name, check in _checks(bench):
        began, ok = time.monotonic(), True
        try:
            said = check() or "as it should"
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


def _checks(bench: Bench) -> list[tuple[str, Callable[[], str | None]]]:
    device, cuda = bench.device, bench.device.type == "cuda"
    names = [name for name in CHECKS if cuda or name not in ONLY_CUDA]
    return [
        ("versions", versions),
        ("device", lambda: _device(device)),
        ("host memory", lambda: _host(bench)),
        *((name.replace("_", " "), partial(CHECKS[name], device)) for name in names),
        *([("pinned and registered", partial(_registered, device))] if cuda else []),
        ("tiny-moe", lambda: _tiny_moe(bench)),
    ]


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
    clock, locks, reached = Clock(device), PageLocks(), dict[str, float]()
    block = next(Host().blocks(COPY_BYTES, 1))
    try:
        locks.lock(block)
        for name, source in (("pinned", torch.empty_like(block).pin_memory()), ("registered", block)):
            if not source.is_pinned():
                raise UserError(f"{name} memory is not page-locked for torch")
            took = measure(lambda n, it=source: clock.device_ns(lambda _: target.copy_(it, non_blocking=True), n), 0.5)  # type: ignore[misc]
            reached[name] = COPY_BYTES / took.median
    finally:
        locks.close()
    said = f"pinned {reached['pinned']:.1f} GB/s, registered {reached['registered']:.1f} GB/s"
    if reached["registered"] < 0.8 * reached["pinned"]:
        raise UserError(f"{said}: registered memory is copied more slowly")
    return said


def _tiny_moe(bench: Bench) -> str:
    """tiny-moe, one request under lru: the device's log, replayed, must give the device's decisions."""
    model = Where(str(bench.device)).open("tiny-moe", "float32")
    config = one_run("lru", "25%", shipped("model", "tiny-moe"), bench.profile(), "sample", limit=1)
    cell = make_cell(config, bench.inputs)
    try:
        done = run_forced(cell, model, make_policy(cell))
        if replay(done.core.log, make_core(cell, make_policy(cell))) != done.core.digest():
            raise UserError("the replay of the device's log decides differently")
    finally:
        model.store.close()
    return f"{done.outcome.generated} tokens, the replay agrees"


def copies(bench: Bench) -> str:
    """Bare rates, and the time of a copy by its size, alone and beside other work: ``copies.json``."""
    size, clock = bench.size, Clock(bench.device)
    largest, date = size.largest << 20, now()
    every = Copies(clock, largest)
    budget = Budget(_seconds(bench, size.copies_s), RATE_POINTS + every.visits)
    found = rates(clock, largest, budget)
    curves = every.measure(budget, say)
    shown = {name: {"axes": rows.axes, "samples": [asdict(it) for it in rows.samples]} for name, rows in curves.items()}
    machine = describe(bench.device) | clocks("after the copies")
    bench.write("copies", {"date": date, "machine": machine, "rates": found, "curves": shown})
    write_profile(bench)
    pinned = curves["copy_h2d_pinned"]
    return f"{pinned.axes['bytes'][-1] / pinned.medians[-1]:.2f} GB/s pinned, host to device"


def layers(bench: Bench) -> str:
    """The dense part, an expert and top-K experts of one layer of each shape by tokens: ``layers.json``."""
    size, clock = bench.size, Clock(bench.device)
    grids = Grids.up_to(size.max_tokens, size.max_context)
    # Of the others' experts on the CPU one point does: a large one takes seconds there.
    fewer = replace(grids, cpu_tokens=grids.cpu_tokens[:1], threads=grids.threads[-1:])
    points = grids.points + (len(size.shapes) - 1) * fewer.points
    budget = Budget(_seconds(bench, size.layers_s), points)
    sections = dict(bench.read("layers") or {})
    for name in size.shapes:  # each written when it ends: the first is the one that matters
        if name not in sections:
            dtype = next(it.dtype for it in (size.main, size.link) if it.model == name)
            layer = Layer(name, clock, dtype, grids if name == size.shapes[0] else fewer)
            sections[name] = layer.measure(budget, say)
            del layer
            bench.empty_cache()
            bench.write("layers", sections)
            write_profile(bench)
    expert, dense = (sections[size.shapes[0]][part]["ns"][0] / 1e3 for part in ("expert", "dense"))
    return f"{size.shapes[0]}: an expert {expert:.1f} us, the dense part {dense:.1f} us"


def write_profile(bench: Bench) -> None:
    """``profile.yaml`` of what has been measured so far: as python -m traces calibrate writes it."""
    found, sections = bench.read("copies"), bench.read("layers") or {}
    if found is None:
        return
    curves = {
        name: Rows(it["axes"], [Sample(**sample) for sample in it["samples"]]) for name, it in found["curves"].items()
    }
    name = re.sub(r"[^a-z0-9]+", "_", bench.record.about["device"].lower()).strip("_").removeprefix("nvidia_")
    measured = found["date"], found["machine"], bench.device, found["rates"]
    made = assemble(f"{name}_measured", *measured, curves, sections)
    write(bench.folder / "profile.yaml", with_threads(made))


def _seconds(bench: Bench, seconds: float) -> float:
    """Of the time that is left, no more than its share: a short run measures all points, each less often."""
    return max(1.0, seconds * min(1.0, bench.clock.seconds / 540))
