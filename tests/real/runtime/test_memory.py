"""What a run keeps, and what it takes: nothing that grows beyond its log, never more than the budget."""

import gc
import resource
import tracemalloc
from itertools import count
from typing import Any

import numpy as np
import pytest

from policies.lru import LRU
from real.runtime.backend import Backend
from real.runtime.compute import LayerCompute
from real.runtime.engine import Engine
from real.runtime.events import Feed, Run
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from sim.core.state import CoreError
from sim.workload.passes import Pass, ordered_union
from tests.real.runtime.rig import CPU, NEW_TOKENS, PROMPTS, Rig, drive, serve, torch
from tests.traces.models.tiny import E, K, tiny

STEPS = 10_000


class Endless(Feed):
    """Routing without an end: every pass is another one, and none is kept."""

    def __init__(self, n_layers: int) -> None:
        self.random = np.random.default_rng(0)
        self.n_layers = n_layers

    def draw(self) -> list[Any]:
        return [torch.from_numpy(self.random.permutation(E)[None, :K]) for _ in range(self.n_layers)]

    def routing(self) -> None:
        return None

    def demand(self, layer: int, ids: Any, weights: Any) -> tuple[list[int], list[int]]:
        return ordered_union(ids + layer * E, self.n_layers * E)


def growing(snapshot: tracemalloc.Snapshot) -> int:
    """Traced bytes but those of what a machine keeps of each step by design: the log of facts, and the timeline."""
    by_design = [tracemalloc.Filter(False, f"*/sim/{name}.py") for name in ("core/log", "results/timeline")]
    traces = snapshot.filter_traces([*by_design, tracemalloc.Filter(False, tracemalloc.__file__)])
    return sum(entry.size for entry in traces.statistics("filename"))


def rss() -> int:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * resource.getpagesize()


# Tickets, predictions, requests or tensors that nobody lets go: a run of a day ends for want of memory.
@pytest.mark.ci
@pytest.mark.parametrize(("held", "before"), [(3, 500), (E, STEPS - 2000)])
def test_ten_thousand_steps_leak_nothing(held: int, before: int) -> None:
    """With little room, where experts come and go, and with all resident; the last 2,000 steps are watched."""
    rig = Rig(Offloaded(tiny("olmoe", num_hidden_layers=1), CPU))
    feed, machine = Endless(1), rig.machine(LRU, held)
    layers = [LayerCompute(layer.experts, i, machine.pool) for i, layer in enumerate(rig.model.moe.layers)]
    hidden, weights = torch.randn(1, 32), torch.full((1, K), 1 / K)
    numbers = count()

    def steps(n: int) -> None:
        for _ in range(n):
            step = Pass(False, (0,), [(next(numbers) % 7, 1)], 1, 1, 1, [], [])
            drive(run, layers, step, hidden, feed.draw(), weights)
        machine.core.digest()  # which empties what waits to be hashed
        gc.collect()

    with machine, torch.inference_mode():
        run = Run(machine, feed)
        steps(before)
        tracemalloc.start()
        try:
            steps(100)
            first, first_rss, words = growing(tracemalloc.take_snapshot()), rss(), len(machine.core.log)
            steps(2000)
            last, last_rss = growing(tracemalloc.take_snapshot()), rss()
        finally:
            tracemalloc.stop()
    machine.finish()
    assert machine.steps == before + 2100
    assert last - first < 40_000, "20 bytes a step: less than any object has"
    assert last_rss - first_rss < 16 << 20
    assert len(machine.core.log) - words < 60 * 2000, "numbers of 8 bytes; a step of one layer"


# Caches of requests that have ended stayed in the batch that they had been in.
def test_requests_that_have_ended_leave_nothing() -> None:
    model = tiny("olmoe")
    engine = Engine(model, CPU)
    with torch.inference_mode():
        for request in range(3):
            engine.prefill(request, [5, 6, 7 + request])
        engine.decode((0, 1, 2), [1, 2, 3])
        engine.drop(1)
        engine.decode((0, 2), [1, 3])
        for request in (0, 2):
            engine.drop(request)
    assert not engine._own
    assert not engine._length
    assert engine._joined is None


def test_live_runs_keep_their_rows_and_no_more() -> None:
    """For the trace of what was generated. Bounded by the rows: ids and weights, and what a policy declares."""
    rig = Rig(Offloaded(tiny("olmoe"), CPU))
    live = serve(rig, LRU, 12, 4).live
    assert live is not None
    live.keep_all()
    rows = sum(map(len, PROMPTS)) + sum(n - 1 for n in NEW_TOKENS)
    assert live.rows == rows
    arrays = [array for _, shown in live.steps for array in shown.kept.values()]
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays)
    per_row = sum(array.nbytes for array in arrays) / rows
    assert per_row <= 4 * K * (1 + 2) + 4, "ids, weights in half precision, and the token"
    assert not any(shown.hidden or shown.logits or shown.routed or shown._read for _, shown in live.steps)


# -- the budget, by the allocator's own figures -------------------------------------------------------------------


class Allocator(Backend):
    """Says what it has given out, in blocks of so many bytes."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.calls = 0
        self.asked = 0

    def allocated(self) -> int:
        self.calls += 1
        return 0 if self.calls % 2 else -(-self.asked // self.block) * self.block


@pytest.mark.parametrize("held", [1, 5, 15])
def test_the_pool_is_within_the_budget(held: int) -> None:
    store = Offloaded(tiny("gpt_oss", num_hidden_layers=2, layer_types=["full_attention"] * 2), CPU).store
    nbytes = store.layout.nbytes
    assert nbytes % 512, "so that an allocator that rounds has something to add"
    for capacity in (held * nbytes, held * nbytes + nbytes - 1):
        exact = Allocator(1)
        exact.asked = held * nbytes
        pool = Pool(store, capacity, 1, exact)
        assert pool.slots == held
        assert pool.block.untyped_storage().nbytes() == pool.allocated == held * nbytes <= capacity
    rounding = Allocator(512)
    rounding.asked = held * nbytes
    with pytest.raises(CoreError, match=rf"the pool took \d+ bytes of a budget of {held * nbytes}$"):
        Pool(store, held * nbytes, 1, rounding)
