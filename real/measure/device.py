"""The device alone: copies by size, and one layer by tokens; the profile that policies are told of."""

import re
from dataclasses import asdict, replace

from real.measure.bench import Bench
from traces.calibrate.copies import Copies, count_points
from traces.calibrate.layers import Grids, Layer
from traces.calibrate.machine import RATE_POINTS, assemble, clocks, describe, now, rates, write
from traces.calibrate.tables import Rows, Sample
from traces.calibrate.timing import Budget, Clock
from traces.kit.telling import say


def copies(bench: Bench) -> str:
    """Bare rates, and the time of a copy by its size, alone and beside other work: ``copies.json``."""
    size, clock = bench.size, Clock(bench.device)
    largest, date = size.largest << 20, now()
    budget = Budget(_seconds(bench, size.copies_s), RATE_POINTS + count_points(largest))
    found = rates(clock, largest, budget)
    curves = Copies(clock, largest).measure(budget, say)
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
    write(bench.folder / "profile.yaml", assemble(f"{name}_measured", *measured, curves, sections))


def _seconds(bench: Bench, seconds: float) -> float:
    """Of the time that is left, no more than its share: a short run measures all points, each less often."""
    return max(1.0, seconds * min(1.0, bench.clock.seconds / 540))
