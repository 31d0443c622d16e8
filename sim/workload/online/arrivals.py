"""Which requests arrive when: from a log, as recorded, or drawn at a rate; and which recorded request each replays.

Routing is never made up: an arrival replays a recorded request, whose tokens it has all, or fewer of where the lengths
of a log are asked for (``lengths=cut``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.workload.online.schedule import Arrival, Limits, check_fits
from traces import DECODE, PREFILL, Trace
from traces.importers.arrivals import LOGS, Logged, read_log
from traces.kit.errors import UserError, one_of
from traces.kit.fields import MAX_INT

DRAWN = ("poisson", "gamma", "constant")
KINDS = ("recorded", *LOGS, *DRAWN)
ASSIGN = ("in_order", "nearest_length")
LENGTHS = ("as_recorded", "cut")
NS = 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """How arrivals are made; see ``conf/workload/online.yaml`` for each key."""

    kind: str
    path: Path | None = None
    rate: Fraction | None = None
    """Requests per second."""
    burstiness: Fraction = Fraction(1)
    scale: Fraction = Fraction(1)
    count: int | None = None
    assign: str = "in_order"
    lengths: str = "as_recorded"
    priority_classes: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives, in the order of time; ids are 0, 1, 2 and so on."""

    kind: str
    arrivals: tuple[Arrival, ...]
    replays: Counter[int]
    """How often each recorded request is replayed; those that are not at all are left out."""

    @property
    def replayed(self) -> bool:
        """Whether some recorded request arrives twice: whoever learns online has then seen it before."""
        return max(self.replays.values()) > 1

    @property
    def sha256(self) -> str:
        """Of all that a result can depend on."""
        rows = [(a.time_ns, a.request, a.prompt_tokens, a.output_tokens, a.priority) for a in self.arrivals]
        return hashlib.sha256(np.array(rows, dtype="<i8").tobytes()).hexdigest()

    def check(self, limits: Limits) -> None:
        """UserError where some arrival could never be served: before a run, rather than in the midst of it."""
        for arrival in self.arrivals:
            check_fits(arrival, limits)

    def described(self) -> dict[str, object]:
        """For documents: how many arrive, over which time, and how often requests are replayed."""
        counts = self.replays.values()
        return {
            "kind": self.kind,
            "sha256": self.sha256,
            "arrivals": len(self.arrivals),
            "last_ns": self.arrivals[-1].time_ns,
            "requests": len(self.replays),
            "replays": {"most": max(counts), "mean": len(self.arrivals) / len(self.replays)},
        }


def traffic(plan: Plan, trace: Trace, requests: Sequence[int], name: str = "") -> Traffic:
    """The arrivals of a run that measures ``requests`` of the trace, in this order. UserError for what cannot be.

    ``name``: what the trace is called in messages.
    """
    lengths = {request: recorded_lengths(trace, request, name) for request in requests}
    count = len(requests) if plan.count is None else plan.count
    log: Sequence[Logged] = ()
    if plan.kind in LOGS:
        log = _log(plan, count)
        times = _rescaled([round(it.arrival_s * NS) for it in log], plan)
    elif plan.kind == "recorded":
        requests, times = _as_recorded(trace, requests, count, name)
        times = _rescaled(times, plan)
    else:
        times = drawn(plan, count)
    if plan.assign == "nearest_length":
        chosen = nearest([(it.prompt, it.output) for it in log], requests, lengths)
    else:
        chosen = [requests[i % len(requests)] for i in range(count)]
    priorities = np.random.default_rng([plan.seed, 1]).integers(0, plan.priority_classes, count).tolist()
    arrivals = []
    for i, (time, request) in enumerate(zip(times, chosen, strict=True)):
        prompt, output = lengths[request]
        if plan.lengths == "cut":
            prompt, output = min(prompt, log[i].prompt), min(output, log[i].output)
        arrivals.append(Arrival(i, time, request, prompt, output, priorities[i]))
    return Traffic(plan.kind, tuple(arrivals), Counter(chosen))


def recorded_lengths(trace: Trace, request: int, name: str = "") -> tuple[int, int]:
    """Prompt and output tokens of a request, as far as they were recorded. UserError for a prompt that was not."""
    steps = trace.steps[trace.steps_of(request)]
    rows = int(steps["rows"][steps["phase"] == PREFILL].sum())
    prompt = trace.requests[request].prompt_tokens
    if rows != prompt or not prompt:
        raise UserError(
            f"trace={name}: request {request} has {prompt} prompt tokens, of which {rows} were recorded, and"
            " workload=online computes prompts; allowed: a trace with its prefill, or workload=closed_loop"
        )
    return prompt, int(steps["rows"][steps["phase"] == DECODE].sum()) + 1


def drawn(plan: Plan, count: int) -> list[int]:
    """Arrivals at a rate, in ns: gaps of a gamma distribution, with 1/burstiness the square of their variation.

    As vLLM's benchmark has them: ``poisson`` is burstiness 1, ``constant`` its limit; the first arrival comes after
    the first gap, and all gaps are scaled so that the last arrival is at count / rate, rounded up.
    """
    total = _last(plan, count)
    if plan.kind == "constant":
        return [(i + 1) * total // count for i in range(count)]
    shape = 1.0 if plan.kind == "poisson" else float(plan.burstiness)
    until: NDArray[np.float64] = np.cumsum(np.random.default_rng([plan.seed, 0]).standard_gamma(shape, count))
    if not until[-1]:  # all gaps below what a number can be
        return [total] * count
    return [min(total, int(share * total)) for share in (until[:-1] / until[-1]).tolist()] + [total]


def nearest(
    logged: Sequence[tuple[int, int]], requests: Sequence[int], lengths: dict[int, tuple[int, int]]
) -> list[int]:
    """For each logged (prompt, output) the recorded request with the least difference in tokens, of both together.

    Of several that are as near, the one that was replayed the least so far, then the first.
    """
    prompts, outputs = (np.array([lengths[request][i] for request in requests], dtype=np.int64) for i in (0, 1))
    used = np.zeros(len(requests), dtype=np.int64)
    chosen = []
    for prompt, output in logged:
        far = np.abs(prompts - prompt) + np.abs(outputs - output)
        near = np.flatnonzero(far == far.min())
        best = int(near[np.argmin(used[near])])
        used[best] += 1
        chosen.append(requests[best])
    return chosen


def _as_recorded(trace: Trace, requests: Sequence[int], count: int, name: str) -> tuple[list[int], list[int]]:
    """The requests in the order in which they arrived, and when, in ns since the first."""
    if count > len(requests):
        raise UserError(
            f"workload.count={count}: as recorded, each of the {len(requests)} measured requests arrives once;"
            f" allowed: up to {len(requests)}, or another workload.arrivals ({one_of(KINDS[1:])})"
        )
    times = {request: trace.requests[request].arrival_s for request in requests}
    without = [request for request, time in times.items() if time is None]
    if without:
        raise UserError(
            f"workload.arrivals=recorded: trace={name} has no arrival of request {without[0]}; allowed: a trace with"
            f" arrivals (python -m traces arrivals adds those of a log), or {one_of(KINDS[1:])}"
        )
    at = {request: round(time * NS) for request, time in times.items() if time is not None}
    order = sorted(requests, key=lambda request: (at[request], request))[:count]
    return order, [at[request] - at[order[0]] for request in order]


def _log(plan: Plan, count: int) -> list[Logged]:
    assert plan.path is not None  # the configuration's reader asks for one
    try:
        return read_log(plan.path, count, kind=plan.kind)
    except UserError as error:
        raise UserError(f"workload.path: {error}") from None


def _rescaled(times: Sequence[int], plan: Plan) -> list[int]:
    """Times of a log, scaled; with a rate so that the last arrival is at count / rate."""
    if plan.rate is None:
        if plan.scale * times[-1] > MAX_INT:
            raise UserError(f"workload.scale={float(plan.scale):g}: the last arrival is after over a century")
        return [time * plan.scale.numerator // plan.scale.denominator for time in times]
    if not times[-1]:
        raise UserError(
            f"workload.rate={float(plan.rate):g}: the first {len(times)} requests of the log arrive at one moment, of"
            " which no factor makes a rate; allowed: null, or a larger workload.count"
        )
    return [time * _last(plan, len(times)) // times[-1] for time in times]


def _last(plan: Plan, count: int) -> int:
    """When the last arrives, in ns, at a rate."""
    assert plan.rate is not None  # the configuration's reader asks for one
    total = -(-count * NS * plan.rate.denominator // plan.rate.numerator)
    if total > MAX_INT:
        raise UserError(f"workload.rate={float(plan.rate):g}: the last of {count} arrivals is after over a century")
    return total
