"""What the runtime itself costs, beside the device: per layer event, per expert launched, per copy.

The same cells are run on the device and simulated with the profile's figures of the device alone. Compute that the
simulation lacks is put down to layer events and to launches, by least squares over runs in which these differ in
number; then the overhead of a copy is what makes the simulated stalls as long as the measured ones.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.words import one_run
from sim.core.accounts import LOOKUPS
from sim.experiment.cell import Cell, make_cell, make_policy, passes_of
from sim.experiment.config import RunConfig
from sim.experiment.run import simulate
from sim.prices import HardwareProfile
from sim.results.document import Outcome
from traces import DECODE, PREFILL, Prompts, Recorder, Request, TraceWriter
from traces.calibrate.machine import now
from traces.kit.telling import say

UNIFORM = "synthetic routing, uniform over the experts of each layer"
PREFILLS = (16, 64, 256)
LONGEST_COPY_OVERHEAD_NS = 10**9
METHOD = (
    "device runs less simulations without overheads: compute by least squares over layer events and launches, then the"
    " overhead per copy that gives the measured stalls of decoding"
)


@dataclass(frozen=True)
class Sample:
    """One run: what the device took, in ns, and how many layer events and launches it had."""

    name: str
    compute: int
    stall: int
    events: int
    launches: int
    config: RunConfig

    @property
    def wall(self) -> int:
        return self.compute + self.stall

    @property
    def bare(self) -> int:
        """Compute as simulated without overheads."""
        return _simulated(self.config).accounts.compute_ns


@dataclass(frozen=True)
class Overheads:
    """In ns. ``fit``: by run, how far the simulated time is off once they are in, as a share of the measured."""

    layer: int
    launch: int
    copy: int
    fit: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What to run: decode steps, how often each run is repeated, the budget and the seed of the routing."""

    tokens: int = 48
    repeat: int = 3
    budget: str = "50%"
    seed: int = 1


def measured(
    model: Offloaded,
    profile: Mapping[str, Any],
    hardware: Mapping[str, Any],
    name: str,
    of: str,
    weights: str,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """The hardware profile, called ``name``, with the overheads of the runtime as it runs ``model``, which is ``of``
    that name, with such ``weights``, and priced by ``profile``."""
    plan = plan or Plan()
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
        found = fit(samples(model, profile, hardware, of, plan, Path(folder)))
    made = with_overheads(hardware, found, name, f"{of}, weights={weights}", plan.seed, now())
    say(", ".join(f"{key} {made['runtime'][key]:g}" for key in ("layer_overhead_us", "launch_us", "copy_overhead_us")))
    return made


def with_overheads(
    hardware: Mapping[str, Any], found: Overheads, name: str, model: str, seed: int, date: str
) -> dict[str, Any]:
    """The hardware profile, called ``name``, with overheads that were found on ``model``: it says whose they are."""
    made = {"name": name} | put_in({**hardware, "name": name}, found.layer, found.launch, found.copy)
    made["runtime"] = {
        "date": date,
        "model": model,
        "routing": f"{UNIFORM}, seed {seed}",
        "method": METHOD,
        "layer_overhead_us": made["software"]["layer_overhead_us"],
        "launch_us": made["gpu"]["launch_us"],
        "copy_overhead_us": made["software"]["copy_overhead_us"],
        "fit": dict(found.fit),
    }
    made["sources"] = dict(made["sources"]) | {"launch_us": "measured: the runtime's own, see runtime"}
    HardwareProfile.from_dict(made)
    return made


def samples(
    model: Offloaded, profile: Mapping[str, Any], hardware: Mapping[str, Any], name: str, plan: Plan, scratch: Path
) -> list[Sample]:
    """Run all, each ``plan.repeat`` times; of the repetitions the one of median time is taken. Nothing is simulated."""
    found = []
    for label, requests, policy, batch in _runs(plan):
        shutil.rmtree(scratch / label, ignore_errors=True)  # what a run that was stopped has left
        trace = write_uniform(scratch / label, model, name, requests, plan.seed)
        alone = put_in(hardware, 0, 0, 0)
        config = one_run(policy, plan.budget, profile, alone, str(trace), batch=batch, warmup=batch)
        cell = make_cell(config)
        runs = [_sample(label, cell, model) for _ in range(plan.repeat)]
        found.append(sorted(runs, key=lambda run: run.wall)[(len(runs) - 1) // 2])
        say(f"{label}: {found[-1].wall / 1e6:.1f} ms")
    return found


def fit(runs: Sequence[Sample]) -> Overheads:
    """The three overheads, none below 0."""
    layer, launch = least_squares(
        [(run.events / run.compute, run.launches / run.compute) for run in runs],
        [(run.compute - run.bare) / run.compute for run in runs],
    )
    decoding = [run for run in runs if run.name.startswith("decode")]

    def stalls(copy: int) -> int:
        priced = (_simulated(put(run.config, layer, launch, copy)) for run in decoding)
        return sum(sum(outcome.accounts.stall_row()) for outcome in priced)

    copy = smallest(stalls, sum(run.stall for run in decoding), LONGEST_COPY_OVERHEAD_NS)
    walls = [_simulated(put(run.config, layer, launch, copy)).wall_ns for run in runs]
    off = {run.name: round(abs(run.wall - ns) / run.wall, 4) for run, ns in zip(runs, walls, strict=True)}
    return Overheads(layer, launch, copy, off)


def least_squares(rows: Sequence[tuple[float, float]], values: Sequence[float]) -> tuple[int, int]:
    """a, b of at least 0, whole, for which a*x + b*y is nearest to the values."""
    xy, wanted = np.array(rows), np.array(values)
    both, _, rank, _ = np.linalg.lstsq(xy, wanted, rcond=1e-6)
    if rank < 2 or both.min() < 0:  # one of them is of no effect
        x, y = (xy.T @ wanted / np.square(xy).sum(axis=0)).clip(min=0)
        both = min(([x, 0.0], [0.0, y]), key=lambda pair: float(np.square(xy @ pair - wanted).sum()))
    return round(float(both[0])), round(float(both[1]))


def smallest(rising: Callable[[int], int], wanted: int, most: int) -> int:
    """The smallest whole number at which ``rising`` reaches ``wanted``; ``most`` if it does not."""
    if rising(0) >= wanted:
        return 0
    high = 1000
    while high < most and rising(high) < wanted:
        high *= 2
    low, high = high // 2 if high > 1000 else 0, min(high, most)
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if rising(middle) >= wanted else (middle, high)
    return high


def write_uniform(path: Path, model: Offloaded, name: str, plans: Sequence[tuple[int, int]], seed: int) -> Path:
    """As :func:`draw`, in the shape of a model that is at hand."""
    moe = model.moe
    about = {"shapes": model.shapes, "dtype": str(model.model.dtype).removeprefix("torch.")}
    sizes = len(moe.layers), moe.n_experts, moe.top_k
    return draw(path, sizes, name, plans, seed, expert_bytes=[model.store.layout.nbytes] * sizes[0], **about)


def draw(
    path: Path, sizes: tuple[int, int, int], name: str, plans: Sequence[tuple[int, int]], seed: int, **about: Any
) -> Path:
    """Requests of (prompt tokens, decode steps), each row's K of E experts in each of L layers without replacement.

    ``sizes``: L, E, K. ``about``: what else is known of the model, as traces.format.manifest.About.
    """
    generator, (L, E, K) = np.random.default_rng(seed), sizes
    with TraceWriter(path, n_layers=L, n_experts=E, top_k=K) as out:
        for number, (prompt, decode) in enumerate(plans):
            steps = [(PREFILL, prompt, 0), *((DECODE, 1, prompt + i) for i in range(decode))]
            ids = generator.random((prompt + decode, L, E)).argsort(axis=-1)[..., :K]
            out.add_request(Request(number, prompt, decode + 1, None, None, "drawn"), steps=steps, expert_ids=ids)
        return out.close(
            name=name,
            recorder=Recorder("real calibrate", "1", None),
            decoding={"mode": "unknown", "seed": seed},
            recording="synthetic",
            prompts=Prompts("drawn", "none"),
            **about,
        )


def put_in(hardware: Mapping[str, Any], layer: int, launch: int, copy: int) -> dict[str, Any]:
    """The profile with these overheads, in ns (0: the device alone); what it charges for decisions stays."""
    return dict(hardware) | {
        "gpu": dict(hardware["gpu"]) | {"launch_us": launch / 1000},
        "software": dict(hardware["software"]) | {"layer_overhead_us": layer / 1000, "copy_overhead_us": copy / 1000},
        "runtime": None,
    }


def put(config: RunConfig, layer: int, launch: int, copy: int) -> RunConfig:
    """The same run on a machine with these overheads."""
    return replace(config, hardware=put_in(config.hardware, layer, launch, copy))


def _runs(plan: Plan) -> list[tuple[str, list[tuple[int, int]], str, int]]:
    """(name, requests, policy, batch); of each the first batch of requests is to warm up."""
    runs = [
        ("decode_on_demand", [(4, 4), (4, plan.tokens)], "on_demand", 1),
        ("decode_lru", [(4, 4), (4, plan.tokens)], "lru", 1),
        ("decode_batch_4", [(4, 2)] * 4 + [(4, math.ceil(plan.tokens / 4))] * 4, "lru", 4),
    ]
    return runs + [(f"prefill_{n}", [(n, 0)] * 4, "on_demand", 1) for n in PREFILLS]


def _sample(name: str, cell: Cell, model: Offloaded) -> Sample:
    events = cell.setup.n_layers * sum(1 for _ in passes_of(cell, cell.selection.measured))
    accounts = run_forced(cell, model, make_policy(cell)).outcome.accounts
    stall, launches = sum(accounts.stall_row()), accounts.hit_row()[LOOKUPS]
    return Sample(name, accounts.compute_ns, stall, events, launches, cell.config)


def _simulated(config: RunConfig) -> Outcome:
    cell = make_cell(config)
    return simulate(cell, make_policy(cell))
