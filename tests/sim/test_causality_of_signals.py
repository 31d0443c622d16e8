"""The contract of causality once more, through what is shipped: a trace on disk, TraceSignals and ClosedLoop.

Here the policies also try to get more out of the signals than these show (DESIGN, rule 2).
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from small_trace import Plan, config, write

from policies import registry
from policies.api import LayerEvent, Policy, Setup, Signal, Signals, Step
from policies.lru import LRU
from sim.cell import make_cell
from sim.core.core import Core
from sim.machine import Machine
from sim.replay import replay
from sim.signals import TraceSignals
from sim.workload import ClosedLoop, Pass
from traces import Trace

sys.path.append(str(Path(__file__).parents[1] / "policies"))  # the lab of the contracts

from lab import PREDICTORS, FakeHistory, FakeSignals, FlatCosts, Variant, Witness, draw, variants

L, E, K, SIZE = 3, 8, 2, 12
CAUSAL = [v for v in variants() if not registry.find(v.name).clairvoyant]
MakeSignals = Callable[[Trace, Policy], Any]
Arrays = dict[str, np.ndarray]


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


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recorded]:
    """``recorded(seed, batch, layers=L)``: a trace with all signals, and others with another future."""

    @cache
    def make(seed: int, batch: int, layers: int = L) -> Recorded:
        folder = tmp_path_factory.mktemp("traces")
        routing = draw(seed, n_layers=layers, n_experts=E, k=K, decode=5, prompts=4)
        plans = [Plan((rows,), 5) for prefill, _, rows in routing.steps if prefill]
        trace = _write(folder / "base", plans, routing.signals)
        passes = list(ClosedLoop(trace, batch).passes(range(4)))
        rng, others = np.random.default_rng(seed), []
        for number, layer in enumerate((-1, 0, 1, 2)):
            index = int(rng.integers(1, len(passes) - 1))
            arrays = _another_future(routing.signals, passes, index, layer, rng)
            others.append(Changed(index, layer, _write(folder / f"other{number}", plans, arrays)))
        costs = FlatCosts(copy=170, expert=30) if seed % 2 else FlatCosts(copy=20, expert=90)
        budget = SIZE * (6 + seed)
        setup = Setup(layers, E, K, (SIZE,) * layers, 1 + seed % 2, budget, costs, 1, PREDICTORS)  # type: ignore[arg-type]
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


def _another_future(arrays: Arrays, passes: Sequence[Pass], index: int, layer: int, rng: np.random.Generator) -> Arrays:
    n, layers = arrays["expert_ids"].shape[:2]
    late, begun_late = np.zeros((n, layers), bool), np.zeros(n, bool)
    for number, step in enumerate(passes[index:]):
        for first, rows in step.parts:
            late[first : first + rows, 0 if number else max(layer, 0) :] = True
            begun_late[first : first + rows] = number > 0 or layer < 0
    source = draw(int(rng.integers(1 << 30)), n_layers=layers, n_experts=E, k=K, decode=40).signals
    rows = rng.integers(0, len(source["expert_ids"]), n)
    given = {}
    for name, old in arrays.items():
        mask = begun_late if name in ("token_ids", "embedding") else late
        given[name] = np.where(mask.reshape(*mask.shape, *[1] * (old.ndim - mask.ndim)), source[name][rows], old)
    return given


def shipped(trace: Trace, policy: Policy) -> TraceSignals:
    return TraceSignals(trace, policy.needs(), outputs(trace), policy.predictors())


def play(policy: Policy, trace: Trace, batch: int, make_signals: MakeSignals = shipped) -> tuple[Witness, Any]:
    if policy.wants_history():
        policy.fit(FakeHistory(policy.setup))
    core = Witness(policy, policy.setup, make_signals(trace, policy))
    machine = Machine(core, policy.setup.costs, depth=batch)  # type: ignore[arg-type]
    accounts = machine.run([], ClosedLoop(trace, batch).passes(range(len(trace.requests))))
    return core, accounts


def assert_causal(make: Callable[[Setup], Policy], given: Recorded, make_signals: MakeSignals = shipped) -> None:
    """Whatever is decided before t is the same when everything after t is changed."""
    before, _ = play(make(given.setup), given.trace, given.batch, make_signals)
    for other in given.others:
        after, _ = play(make(given.setup), other.trace, given.batch, make_signals)
        place = other.index + 1, other.layer
        until = next(i for i, s in enumerate(before.snapshots) if (s.step, s.layer) == place)
        then = before.snapshots[until]
        alike = then == after.snapshots[until] and before.log[: then.told] == after.log[: then.told]
        assert alike, f"decided before pass {other.index}, layer {other.layer}, with knowledge of later"


SEEDS = [(0, 1), (1, 3), (2, 2)]


@pytest.mark.parametrize(("seed", "batch"), SEEDS)
@pytest.mark.parametrize("variant", CAUSAL, ids=str)
def test_nothing_is_decided_by_what_comes_later(
    variant: Variant, seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    given = recorded(seed, batch, variant.layers)
    setup = variant.roomy(given.setup)
    assert_causal(variant.build, Recorded(setup, batch, given.trace, given.others))


@pytest.mark.parametrize(("seed", "batch"), SEEDS)
@pytest.mark.parametrize("variant", CAUSAL, ids=str)
def test_budget_accounts_determinism_and_clockless_replay(
    variant: Variant, seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    given = recorded(seed, batch, variant.layers)
    setup = variant.roomy(given.setup)
    core, accounts = play(variant.build(setup), given.trace, batch)  # the witness checks the budget at every answer
    accounts.check()
    if core.policy.lossless:
        passes = ClosedLoop(given.trace, batch).passes(range(4))
        assert accounts.hit_row()[0] == sum(len(set(demand)) for step in passes for demand in step.demand)
    again, same = play(variant.build(setup), given.trace, batch)
    assert (again.log, again.digest(), same) == (core.log, core.digest(), accounts)
    fresh = variant.build(setup)
    if fresh.wants_history():
        fresh.fit(FakeHistory(setup))
    assert replay(core.log, Core(fresh, setup, shipped(given.trace, fresh))) == core.digest()


class Trickster(LRU):
    """Planted: it prefetches by all that it can get out of the signals, by a trick that its kind knows."""

    name = "trickster"
    signals = frozenset(Signal)

    def predictors(self) -> frozenset[str]:
        return frozenset(PREDICTORS)

    def on_step(self, step: Step) -> None:
        self.use(self.loot(step.signals, (step.signals.token_ids, step.signals.embedding)))

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.use(self.loot(event.signals, self.readers(event.signals)))

    @staticmethod
    def readers(signals: Signals) -> tuple[Callable[[], Any], ...]:
        s = signals
        ahead = (lambda: s.gate_ahead(1), lambda: s.gate_ahead(2))
        fitted = (lambda: s.predicted("near"), lambda: s.predicted("far"))
        return s.token_ids, s.embedding, s.expert_ids, s.expert_weights, s.router_probs, s.hidden, *ahead, *fitted

    def use(self, loot: bytes) -> None:
        self.actions.prefetch(crc32(loot) % (L * E), 0.0)

    def loot(self, signals: Signals, readers: Sequence[Callable[[], Any]]) -> bytes:
        """Without a trick: what may be read."""
        return b"".join(bytes(read()) for read in readers)


class Digger(Trickster):
    """It looks for the array behind the array, down to the file."""

    name = "digger"

    def loot(self, signals: Signals, readers: Sequence[Callable[[], Any]]) -> bytes:
        return b"".join(bytes(layer) for read in readers for layer in self.behind(read()))

    def behind(self, link: Any) -> Iterator[Any]:
        while link is not None:
            yield link
            if isinstance(file := getattr(link, "_mmap", None), mmap.mmap):
                yield file
            link = getattr(link, "base", None)


class Mover(Trickster):
    """It moves the signals on to the last layer, reads, and moves them back."""

    name = "mover"

    def loot(self, signals: Any, readers: Sequence[Callable[[], Any]]) -> bytes:
        honest = super().loot(signals, readers)
        here = getattr(signals, "layer", -1)
        for move in (lambda x: setattr(signals, "layer", x), lambda x: object.__setattr__(signals, "layer", x)):
            try:
                move(L - 1)
                honest += super().loot(signals, self.readers(signals))
                move(here)
            except (AttributeError, TypeError, RuntimeError):
                continue
        return honest


class Enterer(Trickster):
    """It enters a step that is yet to come, or the whole trace, reads, and enters its own again."""

    name = "enterer"

    def loot(self, signals: Any, readers: Sequence[Callable[[], Any]]) -> bytes:
        honest = super().loot(signals, readers)
        try:
            parts, layer = signals.parts, signals.layer
            signals.enter([(parts[0][0], 5)])
            honest += bytes(signals.token_ids())
            signals.layer = layer
            honest += b"" if layer < 0 else super().loot(signals, self.readers(signals))
            signals.enter(parts)
            signals.layer = layer
        except AttributeError:
            pass
        return honest


class Rebinder(Trickster):
    """It puts a question of its own into the place of one of the signals'."""

    name = "rebinder"

    def loot(self, signals: Any, readers: Sequence[Callable[[], Any]]) -> bytes:
        for name in ("expert_ids", "token_ids", "shown", "anything"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(signals, name, lambda: np.zeros(1))
        return super().loot(signals, readers)


TRICKSTERS = [Trickster, Digger, Mover, Enterer, Rebinder]


@pytest.mark.parametrize(("seed", "batch"), SEEDS)
@pytest.mark.parametrize("trickster", TRICKSTERS)
def test_no_trick_gets_the_future_out_of_the_signals(
    trickster: type[Trickster], seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    assert_causal(trickster, recorded(seed, batch))


class Views(FakeSignals):
    """As the signals once were: views of the whole file, where they can be."""

    def _rows(self, name: str, *index: int) -> Any:
        (first, n), *more = self.parts
        return super()._rows(name, *index) if more else self.arrays[name][first : first + n][(slice(None), *index)]


def leaky(kind: type[FakeSignals]) -> MakeSignals:
    def make(trace: Trace, _: Policy) -> Any:
        fitted = {f"predicted/{name}": array for name, array in outputs(trace).items()}
        return kind({name: getattr(trace, name) for name in ("expert_ids", *map(str, Signal))} | fitted)

    return make


@pytest.mark.parametrize(
    ("trickster", "leak"), [(Digger, Views), (Mover, FakeSignals), (Enterer, FakeSignals), (Mover, Views)]
)
def test_the_tricks_work_where_the_signals_leak(
    trickster: type[Trickster], leak: type[FakeSignals], recorded: Callable[..., Recorded]
) -> None:
    """Otherwise the test above shows nothing: each trick does get the future out of signals that were not careful."""
    with pytest.raises(AssertionError, match="with knowledge of later"):
        assert_causal(trickster, recorded(0, 1), leaky(leak))
    assert_causal(Trickster, recorded(0, 1), leaky(leak))  # who does not try is not accused


class Undeclared(LRU):
    """Planted: it reads what it does not declare."""

    name = "undeclared"

    def on_step(self, step: Step) -> None:
        step.signals.token_ids()


class Halfway(Undeclared):
    """Planted: it declares another signal than it reads."""

    name = "halfway"
    signals = frozenset({Signal.HIDDEN})


@pytest.mark.parametrize("planted", [Undeclared, Halfway])
def test_a_run_refuses_signals_that_its_policy_did_not_declare(
    planted: type[Policy], recorded: Callable[..., Recorded]
) -> None:
    """Else a policy would work on a trace that happens to have them, and say nothing on the next."""
    cell = make_cell(config(recorded(0, 1).trace, 10 * SIZE))
    policy = planted(cell.setup)
    machine = cell.machine(cell.core(policy))
    with pytest.raises(RuntimeError, match=r"token_ids.*declare"):
        machine.run([], cell.passes(cell.selection.measured))
