"""Which results are of one and the same run, and which of them may share their bounds.

What a run leaves beside its figures (bounds, a log, a timeline) changes none of them, so runs that differ in that alone
are one run, however often it was asked for. Bounds and reference rows belong to the machine, the model, the trace and
the requests, and not to the policy: a lossless run without them takes those that another one has.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INERT = ("bounds", "log", "timeline")
"""Keys of a configuration that change no figure of a run: they say what is kept beside it."""

OF_THE_POLICY = ("policy", "predictors")
"""Keys of a configuration on which bounds do not depend."""

SERVED = ("requests", "generated_tokens", "prefill_tokens", "lookups")
"""Totals that runs of the same requests have in common."""

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A result and the folder in which it lies; ``complete``: with its table of requests."""

    folder: str
    result: Result
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """A run: the result that stands for it, with whatever bounds there are, and the other folders that hold it."""

    folder: str
    result: Result
    also_in: tuple[str, ...]


def runs(found: Iterable[Found]) -> list[Run]:
    """One run for each set of results that say the same, in the order of the folders; each of a device is one.

    KeyError, TypeError or AttributeError for what is no result.
    """
    alike: dict[str, list[Found]] = defaultdict(list)
    for one in sorted(found, key=lambda one: one.folder):
        alike[_of_a_run(one)].append(one)
    lent = _shared(one.result for group in alike.values() for one in group)
    made = []
    for group in alike.values():
        best = min(group, key=lambda one: (not one.complete, one.result["bounds"] is None, one.folder))
        others = tuple(one.folder for one in group if one is not best)
        made.append(Run(best.folder, _with_bounds(best.result, lent), others))
    return sorted(made, key=lambda run: run.folder)


def _of_a_run(one: Found) -> str:
    """What a result depends on; the limit as the requests that it left."""
    result = one.result
    if "device" in result["provenance"]:  # whatever is measured again differs
        return f"device {one.folder}"
    return _text([_config(result, INERT), result["totals"]["requests"], result["provenance"]["code"]])


def _of_bounds(result: Result) -> str:
    served = [result["totals"][key] for key in SERVED]
    return _text([_config(result, (*INERT, *OF_THE_POLICY)), served])


def _config(result: Result, without: Iterable[str]) -> dict[str, Any]:
    config = {"measure": "test", **result["config"]}  # older results name no part
    return {key: value for key, value in config.items() if key not in (*without, "limit")}


def _shared(results: Iterable[Result]) -> dict[str, Result]:
    """By what bounds depend on, a result that has them; none where results disagree, as those of two engines may."""
    known: dict[str, Result] = {}
    seen: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result["bounds"] is not None and "device" not in result["provenance"]:
            key = _of_bounds(result)
            known[key] = result
            seen[key].add(_text([_floors(result), result["reference"]]))
    return {key: result for key, result in known.items() if len(seen[key]) == 1}


def _floors(result: Result) -> dict[str, int]:
    """The bounds themselves, in bytes and ns."""
    bounds = result["bounds"]
    return {
        "belady_bypass": int(bounds["belady_bypass"]["bytes"]),
        "time_lower_bound": round(bounds["time_lower_bound"]["wall_ms"] * 1_000_000),
    }


def _with_bounds(result: Result, shared: Mapping[str, Result]) -> Result:
    """A lossless, simulated result without bounds with those that it shares, and its own multiples of them."""
    if result["bounds"] is not None or "device" in result["provenance"] or not result["provenance"]["lossless"]:
        return result
    totals = result["totals"]
    own = {
        "belady_bypass": totals["demand_bytes"] + sum(totals["speculative_bytes"].values()),
        "time_lower_bound": totals["wall_ns"],
    }
    lender = shared.get(_of_bounds(result))
    if lender is None:
        return result
    bounds, nulls = {}, {k: why for k, why in result["nulls"].items() if k not in ("bounds", "reference")}
    for name, floor in _floors(lender).items():
        bounds[name] = {**lender["bounds"][name], "gap": own[name] / floor if floor else None}
        if not floor:
            nulls[f"bounds.{name}.gap"] = "the bound is 0"
    return {**result, "bounds": bounds, "reference": lender["reference"], "nulls": nulls}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
