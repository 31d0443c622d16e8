"""Service level objectives: what a request's latencies must keep within for it to count as good."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from traces.kit.errors import UserError, allowing, one_of, shown
from traces.kit.fields import MAX_INT

METRICS = ("ttft", "tpot", "e2el")
"""Names of vLLM's benchmark: time to first token, time per output token, end-to-end latency."""
UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9}
_TERM = re.compile(r"\s*([a-z0-9]+)\s*<=\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*", re.ASCII)
FORMS = f"a limit for some of {one_of(METRICS)} in {one_of(UNITS)}, such as ttft<=2s,tpot<=100ms"


def parse_slo(value: Any, where: str = "slo") -> Mapping[str, int]:
    """``ttft<=2s,tpot<=100ms`` as limits in ns, by metric. UserError, naming ``where``, for anything else."""
    found: dict[str, int] = {}
    for term in value.split(",") if isinstance(value, str) else [""]:
        match = _TERM.fullmatch(term)
        if match is None:
            raise UserError(f"{where}={shown(value)}: not understood; allowed: {FORMS}")
        metric, limit, unit = match.groups()
        if metric not in METRICS:
            raise UserError(f"{where}={shown(value)}: {metric} is no metric; {allowing(metric, METRICS)}")
        if unit not in UNITS:
            raise UserError(f"{where}={shown(value)}: {unit} is no unit; {allowing(unit, UNITS)}")
        if metric in found:
            raise UserError(f"{where}={shown(value)}: {metric} has two limits; allowed: one each")
        found[metric] = int(Fraction(limit) * UNITS[unit])
        if not 0 < found[metric] <= MAX_INT:
            raise UserError(f"{where}={shown(value)}: {term.strip()}; allowed: above 0, and at most {MAX_INT} ns")
    return found
