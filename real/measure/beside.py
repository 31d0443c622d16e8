"""The runtime beside others and beside itself: the library, accelerate, equal outputs, and where a pass's time goes."""

import gzip
import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from real.measure.bench import MAIN, Bench
from real.peers import beside
from real.runtime.engine import Engine
from real.runtime.offloaded import Offloaded, resident
from real.runtime.recorded import run_forced, run_taught
from sim.experiment.cell import Cell, make_policy, passes_of
from sim.results.document import latencies
from sim.workload.passes import Pass
from traces.kit.errors import UserError
from traces.kit.whole import write_whole

PASSES = (4, 7)
"""After so many passes the profiler begins, and ends."""
SHOWN = 60
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
"""How the names of the calls that launch a kernel begin: libraries use those of several versions."""
EQUAL = (("on_demand", "25%"), ("lru", "25%"), ("lru", "100%"))
"""Runs whose outputs must be equal to the bit: experts come at other times, and in another order."""
ON_HOST = ("static_split", "25%")
"""A run in which the host computes most experts: on a GPU it rounds otherwise."""


def peers(bench: Bench) -> str:
    """Milliseconds per token of the library, of accelerate, and of this runtime: ``peers.json``."""
    rows = beside(
        bench.model(MAIN),
        bench.config(MAIN, "gate_ahead", "50%"),
        bench.size.main.model,
        new_tokens=bench.size.new_tokens,
        accelerate_tokens=bench.size.accelerate_tokens,
        host_memory=bench.host_memory,
        note=partial(bench.write, "peers"),
    )
    return ", ".join(f"{row['name']} {row['ms_per_token']:.3g} ms" for row in rows["rows"])


def exactness(bench: Bench) -> str:
    """Whether outputs depend on what was in memory, and how far they are from the library's: ``exact.json``."""
    model, first = bench.model(MAIN), bench.cell(MAIN, "lru", "100%", limit=1, warmup=0)
    logits = {}
    for policy, budget in EQUAL:
        cell = bench.cell(MAIN, policy, budget, limit=1, warmup=0)
        logits[f"{policy} at {budget}"] = _logits(partial(run_taught, cell, model, make_policy(cell)))
    cell = bench.cell(MAIN, *ON_HOST, limit=1, warmup=0)
    on_host = _logits(partial(run_taught, cell, model, make_policy(cell)))
    with resident(model) as whole:
        library = _logits(partial(_library, first, whole, bench.device))
    digests = {
        name: hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in found)).hexdigest()
        for name, found in logits.items()
    }
    found: dict[str, Any] = {
        "passes": len(library),
        "digests": digests,
        "equal": len(set(digests.values())) == 1,
        "library": _apart(logits["lru at 100%"], library),
        "host": _apart(on_host, logits["lru at 100%"]) | _divergence(on_host, logits["lru at 100%"]),
    }
    with model.computing(exact=False):
        grouped = _logits(partial(run_taught, first, model, make_policy(first)))
    found["grouped"] = _apart(grouped, library) | {"from_exact": _apart(grouped, logits["lru at 100%"])}
    found["tpot_ms"] = {way: _tpot(bench, model, exact) for way, exact in (("exact", True), ("grouped", False))}
    bench.write("exact", found)
    if not found["equal"]:
        raise UserError("outputs depend on the policy or the budget: see exact.json")
    said = f"equal between policies; from the library's at most {found['library']['largest']:.3g} apart"
    host = found["host"]
    return f"{said}; with {' at '.join(ON_HOST)} {host['largest']:.3g}, KL {host['kl_mean']:.2g} nats a token"


def profile(bench: Bench) -> str:
    """Three decode passes under torch's profiler: ``passes.json.gz`` opens in Perfetto, ``passes.json`` sums it up."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (bench.device.type == "cuda")
    cell, done = bench.cell(MAIN, "lru", "50%", limit=1, warmup=0), 0
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as scratch:
        made = profiler(activities=kinds)

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            if done == PASSES[0]:
                made.start()
            elif done == PASSES[1]:
                made.stop()

        try:
            run_forced(cell, bench.model(MAIN), make_policy(cell), count)
        finally:
            if PASSES[0] <= done < PASSES[1]:  # stopped between the two: nothing after it is to be watched
                made.stop()
        if done < PASSES[1]:
            raise UserError(f"the request has {done} passes; allowed: one of {PASSES[1]} and more")
        path = Path(scratch) / "passes.json"
        made.export_chrome_trace(str(path))
        write_whole(bench.folder / "passes.json.gz", gzip.compress(path.read_bytes(), mtime=0))
    rows = [
        {"name": it.key, "calls": it.count, "cpu_us": it.self_cpu_time_total, "device_us": it.self_device_time_total}
        for it in made.key_averages()
    ]
    rows.sort(key=lambda row: -row["cpu_us"] - row["device_us"])
    passes = PASSES[1] - PASSES[0]
    launched = sum(row["calls"] for row in rows if row["name"].startswith(LAUNCHES))
    operations = sum(row["calls"] for row in rows if row["name"].startswith("aten::"))
    sums = {"passes": passes, "aten_calls_per_pass": operations / passes, "launches_per_pass": launched / passes}
    bench.write("passes", sums | {"policy": "lru", "budget": "50%", "rows": rows[:SHOWN]})
    return f"{operations / passes:.0f} operations a pass, nested ones counted too"


def _logits(run: Callable[[Callable[[Pass, Tensor], None]], object]) -> list[Tensor]:
    found: list[Tensor] = []
    run(lambda _step, logits: found.append(logits.float().cpu()))
    return found


def _tpot(bench: Bench, model: Offloaded, exact: bool) -> dict[str, Any]:
    """TPOT of one request where most experts are there, in one way of computing them: the kernel's groups are slots."""
    cell = bench.cell(MAIN, "lru", "75%", limit=1, warmup=0)
    with model.computing(exact=exact):
        run = run_forced(cell, model, make_policy(cell))
    spread = latencies(run.outcome.timings)["tpot"]
    return {"mean": spread["mean"] if spread else None, "slots": run.machine.pool.slots}


def _library(cell: Cell, model: Any, device: torch.device, take: Callable[[Pass, Tensor], None]) -> None:
    """The same passes by the library itself, all experts on the device."""
    engine, tokens = Engine(model, device), cell.trace.token_ids
    assert tokens is not None
    with torch.inference_mode():
        for step in passes_of(cell, cell.selection.measured):
            given = [token for first, rows in step.parts for token in tokens[first : first + rows].tolist()]
            take(step, engine.forward(step, given, every=True))


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> dict[str, Any]:
    """How far two runs' logits are apart, beside the largest of them, and the share of rows with the same argmax."""
    pairs = list(zip(ours, theirs, strict=True))
    rows = sum(len(a) for a, _ in pairs)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs)
    return {
        "largest": max(float((a - b).abs().max()) for a, b in pairs),
        "largest_logit": max(float(b.abs().max()) for _, b in pairs),
        "same_argmax": same / rows,
        "equal": all(torch.equal(a, b) for a, b in pairs),
    }


def _divergence(ours: list[Tensor], theirs: list[Tensor]) -> dict[str, float]:
    """KL divergence of ours from theirs, in nats: the mean and the largest over the rows."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        log_p, log_q = (it.double().log_softmax(-1) for it in (b, a))
        found.append((log_p.exp() * (log_p - log_q)).sum(-1))
    rows = torch.cat(found)
    return {"kl_mean": float(rows.mean()), "kl_largest": float(rows.max())}
