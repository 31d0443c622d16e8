"""Two small traces that feed every policy, the same on any machine for ever.

Made by integer arithmetic alone, without numpy's generators. What policies compute with are whole multiples of 1/64,
so that sums and products are exact in whatever order a machine takes them: a policy that adds in another order still
decides the same. A preset that reads another fitted predictor than ``promoe`` wants its outputs here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.sim.small_trace import ABSENT, Plan, write
from traces import Trace, open_trace
from traces.writing.predicted import write_predicted

WIDTH, AHEAD, STRIDE = 6, 3, 2
"""Numbers in an embedding; layers ahead of which the gates are recorded; those that the fitted predictors name."""
TRAIN = (Plan((4,), 5, split="train"), Plan((2, 3), 4, split="train"), Plan((6,), 3, split="train"))
TEST = (Plan((5,), 7, split="test"), Plan((3, 2), 6, split="test"), Plan((), 5, prompt=9, split="test"))
MORE = (Plan((7,), 4, split="test"), Plan((1,), 9, split="test"))
SIZES = {"eight": (240_000,) * 8, "twelve": (180_000, 240_000, 120_000, 240_000, 180_000, 300_000, 240_000)}
"""Bytes of an expert, by layer."""
SHARES = {8: (24, 16, 8, 6, 4, 3, 2, 1), 12: (20, 14, 9, 6, 4, 3, 2, 2, 1, 1, 1, 1)}
"""Of 64, by rank: what a router gives to each of so many experts."""


def write_traces(folder: Path) -> dict[str, Trace]:
    """By name: one of few experts, of which most are reused; one of more experts, more of them at a time."""
    return {
        "eight": _write(folder / "eight", (*TRAIN, *TEST, *MORE), experts=8, top_k=2, stay=5),
        "twelve": _write(folder / "twelve", (*TRAIN, *TEST), experts=12, top_k=4, stay=2),
    }


def drawn(salt: int, *shape: int) -> NDArray[np.int64]:
    """Numbers of 31 bits: splitmix64 of their places."""
    x = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(salt << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x += np.uint64(0x9E3779B97F4A7C15)
    return (x >> np.uint64(33)).astype(np.int64).reshape(shape)


def _write(path: Path, plans: Sequence[Plan], *, experts: int, top_k: int, stay: int) -> Trace:
    n, layers = sum(plan.rows for plan in plans), len(SIZES[path.name])
    chosen = _ranked(n, layers, experts, stay)
    shares = np.array(SHARES[experts]) / 64
    probs = np.empty((n, layers, experts))
    np.put_along_axis(probs, chosen, np.broadcast_to(shares, probs.shape), axis=-1)
    ids = chosen[..., :top_k]
    ahead = np.full((n, layers, AHEAD, top_k), ABSENT)
    for distance in range(1, AHEAD + 1):
        ahead[:, :-distance, distance - 1] = _guessed(ids, 10 + distance, experts)[:, distance:]
    signals = {
        "expert_weights": np.broadcast_to(shares[:top_k], ids.shape),
        "router_probs": probs,
        "gate_ahead": ahead,
        "hidden": (drawn(2, n, layers, WIDTH) % 9 - 4) / 4,
        "embedding": (drawn(3, n, WIDTH) % 9 - 4) / 4,
        "token_ids": drawn(4, n) % 50,
    }
    trace = write(path, plans, ids, n_experts=experts, signals=signals, sizes=SIZES[path.name])
    said = np.full_like(ids, ABSENT)
    said[:, :-STRIDE] = _guessed(ids, 20, experts)[:, STRIDE:]
    write_predicted(trace, [said], name="promoe", kind="golden", input="hidden", stride=STRIDE, top_k=top_k, fit={})
    return open_trace(path)


def _ranked(n: int, layers: int, experts: int, stay: int) -> NDArray[np.int64]:
    """[n, L, E] experts by descending score: popular ones first, ``stay`` rows of 8 as the row before."""
    popular = drawn(5, layers, experts) % 600
    score = (drawn(6, n, layers, experts) % 1000 + popular) * experts + np.arange(experts)  # no two alike
    again = drawn(7, n, layers) % 8 < stay
    for row in range(1, n):
        score[row] = np.where(again[row, :, None], score[row - 1], score[row])
    return np.argsort(-score, axis=-1)


def _guessed(ids: NDArray[np.int64], salt: int, experts: int) -> NDArray[np.int64]:
    """What a predictor says of ``ids``: right in two rows of three, per layer."""
    n, layers, top_k = ids.shape
    other = np.argsort(drawn(salt, n, layers, experts), axis=-1, kind="stable")[..., :top_k]
    return np.where(drawn(salt + 50, n, layers, 1) % 3 > 0, ids, other)
