"""Runs of policies on the device: the store, the runtime's own overheads, the grids, the link alone, arrivals."""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from real.calibrate import overheads as fitting
from real.measure.bench import ARRIVALS, HOST, LINK, MAIN, Bench
from real.measure.clock import OutOfTimeError
from real.runtime.recorded import run_forced
from real.serving.loop import run_arrivals
from real.validation.ran import Ran, load, load_all, own_time, save
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.config import RunConfig
from traces.calibrate.machine import now
from traces.kit.errors import UserError
from traces.kit.telling import say

SLACK = 1.2
"""A cell is begun where so many times the longest one's seconds are left."""


def store(bench: Bench) -> str:
    """Load the model, its experts into host memory, once for all that follows."""
    began = time.monotonic()
    model = bench.model(MAIN)
    nbytes = model.store.nbytes
    bench.write("store", {"expert_bytes": nbytes, "seconds": round(time.monotonic() - began, 2)})
    return f"{nbytes / 1e9:.2f} GB of experts in host memory"


def overheads(bench: Bench) -> str:
    """Short runs on drawn routing, from which the runtime's own overheads are fitted later: ``overheads.json``."""
    model, subject = bench.model(MAIN), bench.size.main
    plan = fitting.Plan(tokens=bench.size.overhead_tokens, repeat=1)
    folder = bench.folder / "traces"
    runs = fitting.samples(model, subject.profile(), bench.profile(), subject.model, plan, folder)
    rows = [asdict(replace(run, config=replace(run.config, trace=Path(run.config.trace).name))) for run in runs]
    about = {"model": f"{subject.model}, weights={subject.weights}", "seed": plan.seed}
    copies = bench.read("copies")  # of a machine that was measured then
    bench.write("overheads", about | {"date": copies["date"] if copies else now(), "samples": rows})
    return f"{len(rows)} runs"


def cells(bench: Bench) -> str:
    """The grid on the recorded trace: each cell's log and accounts in ``cells/`` when it ends."""
    return _grid(bench, MAIN, bench.size.grid, "cells", "")


def again(bench: Bench) -> str:
    """Second runs of some cells: how far one run is from another."""
    return _grid(bench, MAIN, bench.size.again, "cells", ".2")


def decisions(bench: Bench) -> str:
    """The policies' own time on this host's CPU, from the logs of the grid: ``decisions.json``."""
    runs = load_all(bench.folder / "host", bench.folder / "traces")
    runs |= load_all(bench.folder / "cells", bench.folder / "traces")
    found = own_time(runs, "50%", bench.inputs)
    bench.write("decisions", {"where": "on the host of the device", "budget": "50%", "policy_us": found})
    return ", ".join(f"{name} {it.get('decode', 0) / 1000:.2f} ms a decode pass" for name, it in found.items())


def link(bench: Bench) -> str:
    """Experts so large that the link decides, on drawn routing: the clean test of its model."""
    return _grid(bench, LINK, bench.size.link_grid, "link", "")


def hosted(bench: Bench) -> str:
    """Policies that have experts computed on the host, as the main grid is run, on fewer requests: ``host/``."""
    return _grid(bench, HOST, bench.size.host_grid, "host", "")


def arrivals(bench: Bench) -> str:
    """Requests that arrive in time, served by the simulator's scheduler: ``arrivals/``."""
    return _grid(bench, ARRIVALS, bench.size.arrivals_grid, "arrivals", "")


def files(grid: Iterable[tuple[str, str]], folder: str, suffix: str = "") -> list[str]:
    """What the cells of a grid leave, of which the last is written last."""
    return [f"{folder}/{_name(*cell, suffix)}.{kind}" for cell in grid for kind in ("npz", "json")]


def _name(policy: str, budget: str, suffix: str) -> str:
    return f"{policy}-{budget.removesuffix('%')}{suffix}"


def _config(bench: Bench, which: str, policy: str, budget: str, folder: Path) -> RunConfig:
    """As the cell was run before, if it was: the machine's profile may say more by now, and a second run is of it."""
    ran = sorted(folder.glob(f"{_name(policy, budget, '')}*.json"))
    if not ran:
        return bench.config(which, policy, budget)
    return replace(load(ran[0], folder)[0], trace=bench.subject(which).trace)


def _grid(bench: Bench, which: str, grid: tuple[tuple[str, str], ...], folder: str, suffix: str) -> str:
    wrong, ran = [], 0
    for policy, budget in grid:
        path = bench.folder / folder / _name(policy, budget, suffix)
        if all((bench.folder / name).exists() for name in files([(policy, budget)], folder, suffix)):
            ran += 1
            continue
        model = bench.model(which)
        if bench.clock.left() < SLACK * bench.longest.get(which, 0):
            raise OutOfTimeError
        began = time.monotonic()
        try:
            config = _config(bench, which, policy, budget, path.parent)
            cell = make_cell(replace(config, trace=bench.trace(which)), bench.inputs)
            run = run_forced if cell.traffic is None else run_arrivals
            left = Ran.of(cell, run(cell, model, make_policy(cell)))
        except UserError as error:
            wrong.append(f"{policy} at {budget}: {error}")
            continue
        save(path, config, left)
        ran += 1
        spent = time.monotonic() - began
        bench.longest[which] = max(spent, bench.longest.get(which, 0))
        tpot = left.document["latency_ms"]["tpot"]
        say(f"{policy} at {budget}: TPOT {tpot['mean']:.3g} ms, {spent:.1f} s" if tpot else f"{policy} at {budget}")
    if wrong:
        raise UserError(f"{ran} of {len(grid)} cells ran; not {'; '.join(wrong)}")
    return f"{ran} cells"
