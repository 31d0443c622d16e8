"""What a result says of experts in several versions: of each, and of all lower ones together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sim.core.accounts import Accounts
from traces.kit.units import format_bytes


def of_versions(dtypes: Sequence[str], accounts: Accounts) -> tuple[dict[str, Any], dict[str, str]]:
    """``versions`` of ``result.json``, and why what is null is so; nothing where there is one.

    Of each dtype lookups, complete hits and their share, (token, choice) slots that were computed in it, loads that
    began, and bytes copied; ``lower``: of all but the model's own, the first.
    """
    if not accounts.by_version:
        return {}, {}
    each = [asdict(its) for its in accounts.by_version]
    lower = {key: sum(its[key] for its in each[1:]) for key in each[0]}
    said: dict[str, Any] = {"own": dtypes[0], "by_dtype": {}}
    nulls = {}
    for path, its in [*((f"by_dtype.{dtype}", its) for dtype, its in zip(dtypes, each, strict=True)), ("lower", lower)]:
        hits = {"complete": its["complete"] / its["lookups"] if its["lookups"] else None}
        if hits["complete"] is None:
            nulls[f"versions.{path}.hit_rate.complete"] = "no lookups in it"
        of_it = {"lookups": its["lookups"], "complete_hits": its["complete"], "hit_rate": hits}
        of_it |= {"slots": its["tokens"], "loads": its["loads"], "copied_bytes": its["copied_bytes"]}
        if path == "lower":
            said["lower"] = of_it
        else:
            said["by_dtype"][path.removeprefix("by_dtype.")] = of_it
    return {"versions": said}, nulls


def versions_worded(versions: Mapping[str, Any]) -> str:
    """A line of a table."""
    parts = []
    for dtype, its in versions["by_dtype"].items():
        hits, nbytes = its["hit_rate"]["complete"], format_bytes(its["copied_bytes"])
        share = "" if hits is None else f" ({100 * hits:.1f} % hits)"
        parts.append(f"{dtype} {its['lookups']:,} lookups{share}, {its['loads']:,} loads, {nbytes}")
    return "by version: " + "; ".join(parts)
