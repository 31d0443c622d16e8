"""What is drawn like a recording is cached like it: LRU, FIFO, LFU, Belady, per layer and in one pool, and who wins."""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from traces import open_trace
from traces.cli import main

SHARES = (0.25, 0.5, 0.75)
LAYERS = slice(0, None, 4)  # of the sample's 16, for time


def lru(sequence: list[int], slots: int, *, renew: bool = True) -> float:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for expert in sequence:
        if expert in held:
            hits += 1
            if renew:
                held.move_to_end(expert)
        else:
            held[expert] = None
            if len(held) > slots:
                held.popitem(last=False)
    return hits / len(sequence)


def fifo(sequence: list[int], slots: int) -> float:
    return lru(sequence, slots, renew=False)


def lfu(sequence: list[int], slots: int) -> float:
    count, last, held = Counter[int](), dict[int, int](), set[int]()
    rarest, hits = list[tuple[int, int, int]](), 0
    for now, expert in enumerate(sequence):
        count[expert] += 1
        last[expert] = now
        if expert in held:
            hits += 1
            continue
        while len(held) >= slots:
            *rank, victim = heapq.heappop(rarest)
            if rank == [count[victim], last[victim]]:
                held.remove(victim)
            else:
                heapq.heappush(rarest, (count[victim], last[victim], victim))
        held.add(expert)
        heapq.heappush(rarest, (count[expert], now, expert))
    return hits / len(sequence)


def belady(sequence: list[int], slots: int) -> float:
    after, last = [0] * len(sequence), dict[int, int]()
    for place in range(len(sequence) - 1, -1, -1):
        after[place] = last.get(sequence[place], len(sequence))
        last[sequence[place]] = place
    held, farthest, hits = dict[int, int](), list[tuple[int, int]](), 0
    for place, expert in enumerate(sequence):
        if expert in held:
            hits += 1
        elif len(held) >= slots:
            while True:
                next_use, victim = heapq.heappop(farthest)
                if held.get(victim) == -next_use:
                    del held[victim]
                    break
        held[expert] = after[place]
        heapq.heappush(farthest, (-after[place], expert))
    return hits / len(sequence)


def hit_rates(folder: Path) -> dict[tuple[str, str, float], float]:
    trace = open_trace(folder, "shape")
    ids = np.asarray(trace.expert_ids)[:, LAYERS].astype(int)
    layers, found = ids.shape[1], {}
    pool = (ids + trace.E * np.arange(layers)[None, :, None]).ravel().tolist()
    rules: tuple[Callable[[list[int], int], float], ...] = (lru, fifo, lfu, belady)
    for rule in rules:
        for share in SHARES:
            slots = int(share * trace.E)
            each = [rule(ids[:, layer].ravel().tolist(), slots) for layer in range(layers)]
            found[rule.__name__, "layer", share] = float(np.mean(each))
            found[rule.__name__, "global", share] = rule(pool, slots * layers)
    return found


@pytest.mark.ci
def test_hit_rates_are_those_of_the_recording(tmp_path: Path) -> None:
    sample = Path(__file__).resolve().parents[3] / "traces" / "sample"
    words = ["model=tiny-moe", f"out={tmp_path / 't'}", "requests=75", "signals=none"]
    assert main(["synthesize", *words]) == 0
    real, drawn = hit_rates(sample), hit_rates(tmp_path / "t")
    # LFU, whose counts last, gathers what few layers have by chance.
    assert {row: rate for row, rate in drawn.items() if row[0] != "lfu"} == pytest.approx(
        {row: rate for row, rate in real.items() if row[0] != "lfu"}, abs=0.03
    )
    assert drawn == pytest.approx(real, abs=0.04)
    assert_same_order(real, drawn)


def assert_same_order(real: dict[tuple[str, str, float], float], drawn: dict[tuple[str, str, float], float]) -> None:
    for share in SHARES:
        rows = {row[:2] for row in real if row[2] == share}
        for one in rows:
            for other in rows:
                apart = real[(*one, share)] - real[(*other, share)]
                if apart > 0.01:
                    assert drawn[(*one, share)] > drawn[(*other, share)], (one, other, share)
