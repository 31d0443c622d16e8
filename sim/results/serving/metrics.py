"""Latencies, throughput and goodput of instances that have ended: pure functions of their times, in ns.

The definitions are those of vLLM's serving benchmark; where another tool means something else by a name, the docstring
says what is meant here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.workload.online.ledger import Served

NS_PER_MS = 1_000_000
Interval = tuple[int, int]
"""Half open: from, until."""


def ttft_ns(one: Served) -> int:
    """Time to first token: from the arrival to the end of the pass that computes the last prompt token."""
    return one.token_ns[0] - one.arrival.time_ns


def queueing_ns(one: Served) -> int:
    """From the arrival to the beginning of the first pass that computes any of it; a part of its TTFT."""
    return one.first_ns - one.arrival.time_ns


def e2el_ns(one: Served) -> int:
    """End-to-end latency: from the arrival to the last token."""
    return one.end_ns - one.arrival.time_ns


def tpot_ns(one: Served) -> float | None:
    """Time per output token after the first; None for a single token, which is left out."""
    gaps = len(one.token_ns) - 1
    return (e2el_ns(one) - ttft_ns(one)) / gaps if gaps else None


def itl_ns(instances: Iterable[Served], *, beside: bool | None = None) -> NDArray[np.int64]:
    """Inter-token latencies: every gap of every instance, pooled.

    ``beside``: only those in which some pass computed a prompt of another instance (True), or none did (False).
    """
    found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for one in instances:
        times: NDArray[np.int64] = np.frombuffer(one.token_ns, dtype=np.int64)
        gaps = times[1:] - times[:-1]
        if beside is not None:
            gaps = gaps[np.frombuffer(one.beside, dtype=np.uint8)[1:] == beside]
        found.append(gaps)
    return np.concatenate(found)


def good(one: Served, slo: Mapping[str, int]) -> bool:
    """Whether it keeps within every limit, in ns; with a single output token its TPOT is 0."""
    values = {"ttft": ttft_ns(one), "tpot": tpot_ns(one) or 0, "e2el": e2el_ns(one)}
    return all(values[metric] <= limit for metric, limit in slo.items())


def spread_ms(ns: Sequence[float] | NDArray[np.int64]) -> dict[str, float] | None:
    """Mean, median, p90 and p99 (linear between ranks), in ms; None of nothing."""
    if not len(ns):
        return None
    ms = np.asarray(ns, dtype=np.float64) / NS_PER_MS
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    return {"mean": float(ms.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}


def latencies(instances: Sequence[Served]) -> dict[str, dict[str, float] | None]:
    """Of instances that have ended, in ms; None where no instance has the figure."""
    return {
        "ttft": spread_ms([ttft_ns(one) for one in instances]),
        "tpot": spread_ms([tpot for one in instances if (tpot := tpot_ns(one)) is not None]),
        "itl": spread_ms(itl_ns(instances)),
        "itl_beside_prefill": spread_ms(itl_ns(instances, beside=True)),
        "queueing": spread_ms([queueing_ns(one) for one in instances]),
        "request": spread_ms([e2el_ns(one) for one in instances]),
    }


def rates(instances: Sequence[Served], wall_ns: int, slo: Mapping[str, int] | None = None) -> dict[str, float | None]:
    """Per second of the ``wall_ns`` from the start of the run to the last token; goodput is None without objectives."""
    tokens = sum(len(one.token_ns) for one in instances)
    met = None if slo is None else sum(good(one, slo) for one in instances)

    def per_second(count: int) -> float | None:
        return count * 1e9 / wall_ns if wall_ns else None

    return {
        "requests_per_s": per_second(len(instances)),
        "tokens_per_s": per_second(tokens),
        "goodput_per_s": None if met is None else per_second(met),
        "good_share": None if met is None or not instances else met / len(instances),
    }


def in_system(instances: Iterable[Served]) -> list[Interval]:
    """From arrival to last token."""
    return [(one.arrival.time_ns, one.end_ns) for one in instances]


def in_service(instances: Iterable[Served]) -> list[Interval]:
    """From the beginning of the first pass to the last token, preemptions included."""
    return [(one.first_ns, one.end_ns) for one in instances]


def concurrency(intervals: Iterable[Interval]) -> tuple[int, int]:
    """The most intervals at a time, and the area below their number over time.

    Intervals are half open, so that of one moment departures come first. By Little's law the area is the sum of
    their lengths; divided by the time that was looked at it is their mean number.
    """
    changes = sorted(change for begin, end in intervals for change in ((begin, 1), (end, -1)))
    most = area = now = 0
    for i, (time, step) in enumerate(changes):
        area += now * (time - changes[i - 1][0]) if i else 0
        now += step
        most = max(most, now)
    return most, area


def summary(instances: Sequence[Served], wall_ns: int, slo: Mapping[str, int] | None = None) -> dict[str, Any]:
    """All figures of a run whose instances have ended; ``wall_ns``: from its start to the last token."""
    most, area = concurrency(in_system(instances))
    running, _ = concurrency(in_service(instances))
    return {
        "latency_ms": latencies(instances),
        **rates(instances, wall_ns, slo),
        "concurrency": {"peak": most, "peak_running": running, "mean": area / wall_ns if wall_ns else None},
        "preemptions": sum(one.preemptions for one in instances),
        "recomputed_tokens": sum(one.recomputed for one in instances),
    }
