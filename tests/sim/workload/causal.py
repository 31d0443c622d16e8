"""Traces on disk that differ from some moment on, to see whether anything was decided before with knowledge of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import Policy, Setup
from sim.check.laws import FAST, SLOW, Witness
from sim.check.synthetic import LOWER, FlatHost, World, draw, some_history
from sim.check.variants import variants
from sim.check.witness import VersionedWitness
from sim.machine.machine import Machine
from sim.workload.passes import ClosedLoop, Pass
from sim.workload.signals import TraceSignals
from tests.sim.small_trace import Plan, write
from traces import Trace

L, E, K, SIZE = 3, 8, 2, 12
HOST = FlatHost(60, Fraction(1, 5))
MakeSignals = Callable[[Trace, Policy], Any]
Arrays = dict[str, np.ndarray]
PREDICTORS = {it.name: it for variant in variants() for it in variant.world.predictors}
"""All that any policy reads."""
WORLD = World(predictors=tuple(PREDICTORS.values()))


@dataclass
class Changed:
    """A trace that is like another one until the gate of ``layer`` in pass ``index`` (-1: until the pass begins)."""

    index: int
    layer: int
    trace: Trace


@dataclass
class Recorded:
    setup: Setup
    batch: int
    trace: Trace
    others: list[Changed]


def maker(folders: pytest.TempPathFactory) -> Callable[..., Recorded]:
    """``make(seed, batch, layers=L, pregated=False)``: a trace with all signals, and others with another future.

    ``pregated``: after what is known where each gate has said who computes in the next layer.
    """

    @cache
    def make(seed: int, batch: int, layers: int = L, pregated: bool = False) -> Recorded:
        folder = folders.mktemp("traces")
        routing = draw(seed, n_layers=layers, n_experts=E, k=K, decode=5, prompts=4, world=WORLD)
        plans = [Plan((rows,), 5) for prefill, _, rows in routing.steps if prefill]
        trace = _write(folder / "base", plans, routing.signals)
        passes = list(ClosedLoop(trace, batch).passes(range(4)))
        rng, others = np.random.default_rng(seed), []
        for number, layer in enumerate((-1, 0, 1, 2)):
            index = int(rng.integers(1, len(passes) - 1))
            arrays = _another_future(routing.signals, passes, index, layer, rng, pregated=pregated)
            others.append(Changed(index, layer, _write(folder / f"other{number}", plans, arrays)))
        budget, costs = SIZE * (6 + seed), SLOW if seed % 2 else FAST
        setup = Setup(layers, E, K, (SIZE,) * layers, 1 + seed % 2, budget, costs, 1, PREDICTORS, host=HOST)
        setup = replace(setup, dtype="bfloat16", others={LOWER: (SIZE // 3,) * layers})
        return Recorded(setup, batch, trace, others)

    return make


def _write(path: Path, plans: Sequence[Plan], arrays: Arrays) -> Trace:
    """Write the trace, and the predictors' outputs beside it, in files of their own."""
    signals = dict(arrays)
    for name in PREDICTORS:
        np.save(path.with_name(f"{path.name}-{name}.npy"), signals.pop(f"predicted/{name}"))
    signals["expert_weights"] = -np.sort(-signals["expert_weights"], axis=-1)
    return write(path, plans, signals.pop("expert_ids"), n_experts=E, signals=signals)


def outputs(trace: Trace) -> Arrays:
    """What the predictors say, mapped from their files."""
    return {name: np.load(trace.path.with_name(f"{trace.path.name}-{name}.npy"), mmap_mode="r") for name in PREDICTORS}


def _another_future(
    arrays: Arrays, passes: Sequence[Pass], index: int, layer: int, rng: np.random.Generator, *, pregated: bool
) -> Arrays:
    n, layers = arrays["expert_ids"].shape[:2]
    late, begun_late = np.zeros((n, layers), bool), np.zeros(n, bool)
    for number, step in enumerate(passes[index:]):
        for first, rows in step.parts:
            late[first : first + rows, 0 if number else max(layer, 0) :] = True
            begun_late[first : first + rows] = number > 0 or layer < 0
    unsaid = late.copy()  # by any gate
    if pregated and layer > 0:
        for first, rows in passes[index].parts:
            unsaid[first : first + rows, layer] = False
    source = draw(int(rng.integers(1 << 30)), n_layers=layers, n_experts=E, k=K, decode=40, world=WORLD).signals
    rows = rng.integers(0, len(source["expert_ids"]), n)
    given = {}
    for name, old in arrays.items():
        mask = {"token_ids": begun_late, "embedding": begun_late, "expert_ids": unsaid}.get(name, late)
        given[name] = np.where(mask.reshape(*mask.shape, *[1] * (old.ndim - mask.ndim)), source[name][rows], old)
    return given


def shipped(trace: Trace, policy: Policy) -> TraceSignals:
    return TraceSignals(trace, policy.needs(), outputs(trace), policy.predictors(), pregated=policy.modified)


def play(policy: Policy, trace: Trace, batch: int, make_signals: MakeSignals) -> Witness:
    if policy.wants_history():
        policy.fit(some_history(policy.setup))
    kind = VersionedWitness if policy.setup.versions else Witness
    core = kind(policy, policy.setup, make_signals(trace, policy))
    machine = Machine(core, policy.setup.costs, depth=batch)  # type: ignore[arg-type]
    machine.run([], ClosedLoop(trace, batch).passes(range(len(trace.requests))))
    return core


def assert_causal(make: Callable[[Setup], Policy], given: Recorded, make_signals: MakeSignals = shipped) -> None:
    """Whatever is decided before t is the same when everything after t is changed."""
    before = play(make(given.setup), given.trace, given.batch, make_signals)
    for other in given.others:
        after = play(make(given.setup), other.trace, given.batch, make_signals)
        place = other.index + 1, other.layer
        until = next(i for i, s in enumerate(before.snapshots) if (s.step, s.layer) == place)
        then = before.snapshots[until]
        alike = then == after.snapshots[until] and before.log[: then.told] == after.log[: then.told]
        assert alike, f"decided before pass {other.index}, layer {other.layer}, with knowledge of later"
