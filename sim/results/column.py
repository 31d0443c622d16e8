"""What a column of ``sim.load`` is."""

from dataclasses import dataclass

DTYPES = {"text": "string", "whole": "Int64", "number": "float64", "truth": "boolean"}
"""What a kind is in pandas. A number that is null in the result is NaN, anything else is NA."""
SPREAD = ("mean", "p50", "p90", "p99")
"""Of a latency over requests."""


@dataclass(frozen=True, slots=True)
class Column:
    """``path``: where in result.json, dotted; "" where it is worked out (see :func:`row`)."""

    name: str
    kind: str
    unit: str
    meaning: str
    path: str = ""
