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
    """A result, the folder in which it lies, and what tells it from others."""

    folder: str
    result: Result
    complete: bool
    """With its table of requests."""
    run: str
    """What the result depends on: alike for results of one run."""
    window: str | None
    """What bounds depend on: alike for those that may share them; None for those that may not."""
    floors: Mapping[str, int] | None
    """The bounds in bytes and ns, where there are any to share."""

    @classmethod
    def of(cls, folder: str, result: Result, *, complete: bool = True) -> Found:
        """Of the content of a ``result.json``. KeyError, TypeError, AttributeError or ValueError for what is none."""
        totals, source = result["totals"], result["provenance"]
        served = [totals[key] for key in SERVED]
        _figures(totals)
        if "device" in source:  # whatever is measured again differs
            return cls(folder, result, complete, f"device {folder}", None, None)
        window = {"measure": "test", **result["config"]}  # older results name no part
        for key in (*INERT, "limit"):
            window.pop(key, None)
        own = {key: window.pop(key) for key in OF_THE_POLICY}
        shared = _text([window, served])
        floors = None if result["bounds"] is None else _floors(result["bounds"])
        # The limit, as the requests that it left, is among those that were served.
        run = f"{source['code']} {_text(own)} {shared}"
        return cls(folder, result, complete, run, shared if source["lossless"] else None, floors)


@dataclass(frozen=True, slots=True)
class Run:
    """A run: the result that stands for it, with whatever bounds there are, and the other folders that hold it."""

    folder: str
    result: Result
    also_in: tuple[str, ...]


def runs(found: Iterable[Found]) -> list[Run]:
    """One run for each set of results that say the same, in the order of the folders; each of a device is one."""
    alike: dict[str, list[Found]] = defaultdict(list)
    for one in sorted(found, key=lambda one: one.folder):
        alike[one.run].append(one)
    lenders = _lenders(one for group in alike.values() for one in group)
    made = []
    for group in alike.values():
        best = min(group, key=lambda one: (not one.complete, one.floors is None, one.folder))
        others = tuple(one.folder for one in group if one is not best)
        made.append(Run(best.folder, _with_bounds(best, lenders), others))
    return sorted(made, key=lambda run: run.folder)


def _lenders(found: Iterable[Found]) -> dict[str, Found]:
    """By window, a result with bounds; none where results disagree, as those of two engines may."""
    known: dict[str, Found] = {}
    seen: dict[str, set[str]] = defaultdict(set)
    for one in found:
        if one.floors is not None and one.window is not None:
            known[one.window] = one
            seen[one.window].add(_text([one.floors, one.result["reference"]]))
    return {window: one for window, one in known.items() if len(seen[window]) == 1}


def _with_bounds(one: Found, lenders: Mapping[str, Found]) -> Result:
    """A result without bounds with those of its window, and its own multiples of them."""
    result = one.result
    lender = lenders.get(one.window) if one.floors is None and one.window is not None else None
    if lender is None or lender.floors is None:
        return result
    own = _figures(result["totals"])
    bounds, nulls = {}, {k: why for k, why in result["nulls"].items() if k not in ("bounds", "reference")}
    for name, floor in lender.floors.items():
        bounds[name] = {**lender.result["bounds"][name], "gap": own[name] / floor if floor else None}
        if not floor:
            nulls[f"bounds.{name}.gap"] = "the bound is 0"
    return {**result, "bounds": bounds, "reference": lender.result["reference"], "nulls": nulls}


def _figures(totals: Mapping[str, Any]) -> dict[str, int]:
    """What is set against each bound: bytes over the link, and ns."""
    copied = totals["demand_bytes"] + sum(totals["speculative_bytes"].values())
    return {"belady_bypass": int(copied), "time_lower_bound": int(totals["wall_ns"])}


def _floors(bounds: Mapping[str, Any]) -> dict[str, int]:
    nbytes, ms = bounds["belady_bypass"]["bytes"], bounds["time_lower_bound"]["wall_ms"]
    return {"belady_bypass": int(nbytes), "time_lower_bound": round(ms * 1_000_000)}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
