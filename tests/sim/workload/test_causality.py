"""The contract of causality (docs/design.md, rule 2) once more, through what is shipped: a trace on disk, TraceSignals
and ClosedLoop; and policies that try to get more out of the signals than these show, or than they declared.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent, Policy, Signal, Signals, Step
from policies.lru import LRU
from sim.check.synthetic import PREDICTORS, FakeSignals
from sim.check.variants import Variant, variants
from sim.experiment.cell import make_cell, make_core, make_machine, passes_of
from tests.sim.small_trace import config
from tests.sim.workload.causal import SIZE, E, L, MakeSignals, Recorded, assert_causal, maker, outputs
from traces import Trace

TRACES = [(0, 1), (1, 3), (2, 2)]
SEEDS = pytest.mark.parametrize(("seed", "batch"), TRACES)
CAUSAL = [v for v in variants() if not registry.find(v.name).clairvoyant]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recorded]:
    return maker(tmp_path_factory)


@pytest.mark.parametrize(
    ("variant", "seed", "batch"),
    [
        pytest.param(it, *TRACES[i % 3], id=f"{it}-{'-'.join(map(str, TRACES[i % 3]))}")
        for i, it in enumerate({it.name: it for it in reversed(CAUSAL)}.values())
    ],
)
def test_nothing_is_decided_by_what_comes_later(
    variant: Variant, seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    """Each policy's defaults: its other variants read the same signals, and the policies' contracts try them all."""
    given = recorded(seed, batch, variant.world.layers, registry.find(variant.name).modified)
    assert_causal(variant.build, replace(given, setup=variant.roomy(given.setup)))


class Trickster(LRU):
    """Planted: it prefetches by all that it can get out of the signals, by a trick that its kind knows."""

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

    def loot(self, signals: Any, readers: Sequence[Callable[[], Any]]) -> bytes:
        for name in ("expert_ids", "token_ids", "shown", "anything"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(signals, name, lambda: np.zeros(1))
        return super().loot(signals, readers)


@SEEDS
@pytest.mark.parametrize("trickster", [Trickster, Digger, Mover, Enterer, Rebinder])
def test_no_trick_gets_the_future_out_of_the_signals(
    trickster: type[Trickster], seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    assert_causal(trickster, recorded(seed, batch))


class OneLayerOn(Mover):
    """Of a modified model, it reads the pre-gate too, here and where it would like to be."""

    modified = True

    @staticmethod
    def readers(signals: Signals) -> tuple[Callable[[], Any], ...]:
        return *Trickster.readers(signals), signals.pregate


@SEEDS
def test_of_a_modified_model_one_layer_more_is_known_and_nothing_else(
    seed: int, batch: int, recorded: Callable[..., Recorded]
) -> None:
    assert_causal(OneLayerOn, recorded(seed, batch, L, pregated=True))
    with pytest.raises(AssertionError, match="with knowledge of later"):  # or else the window would be of no use
        assert_causal(OneLayerOn, recorded(seed, batch, L))
    with pytest.raises(AssertionError, match="with knowledge of later"):
        assert_causal(OneLayerOn, recorded(seed, batch, L, pregated=True), leaky(FakeSignals))


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

    def on_step(self, step: Step) -> None:
        step.signals.token_ids()


class Halfway(Undeclared):
    """Planted: it declares another signal than it reads."""

    signals = frozenset({Signal.HIDDEN})


@pytest.mark.parametrize("planted", [Undeclared, Halfway])
def test_a_run_refuses_signals_that_its_policy_did_not_declare(
    planted: type[Policy], recorded: Callable[..., Recorded]
) -> None:
    """Else a policy would work on a trace that happens to have them, and say nothing on the next."""
    cell = make_cell(config(recorded(0, 1).trace, 10 * SIZE))
    policy = planted(cell.setup)
    machine = make_machine(cell, make_core(cell, policy))
    with pytest.raises(RuntimeError, match=r"token_ids.*declare"):
        machine.run([], passes_of(cell, cell.selection.measured))
