"""What finished runs left on disk: which results are of one and the same run, their bounds, their tables.

What is damaged is named and left out, not fatal. What a run leaves beside its figures (bounds, a log, a timeline)
changes none of them, so runs that differ in that alone are one run, however often it was asked for. Bounds and
reference rows belong to the machine, the model, the trace and the requests, and not to the policy: a lossless run
without them takes those that another one has.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sim.results.classes import LOSSY, output_of
from sim.results.document import brief, read_document
from traces.kit.errors import UserError, one_of
from traces.kit.units import counted

if TYPE_CHECKING:
    import pyarrow as pa

RESULT = "result.json"
REQUESTS = ("requests.parquet", "requests.csv")  # a device may lack Parquet
LAYERS = ("layers.parquet", "layers.csv")
CONFIG = "config.yaml"
INERT = ("bounds", "log", "timeline", "scores")
"""Keys of a configuration that change no figure of a run: they say what is kept beside it."""
LATER = ("stall_disk_read_ns",)
"""Columns of tables that a machine without the part does not write: 0."""
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
    also_in: tuple[str, ...] = ()
    """The other folders that hold its run, where it stands for the run."""

    @classmethod
    def of(cls, folder: str, result: Result, *, complete: bool = True) -> Found:
        """Of the content of a ``result.json``. KeyError, TypeError, AttributeError or ValueError for what is none."""
        totals, source = result["totals"], result["provenance"]
        served = [totals[key] for key in SERVED]
        _figures(totals)
        if "device" in source:  # whatever is measured again differs
            return cls(folder, result, complete, f"device {folder}", None, None)
        window = {"measure": "test", "scores": False, **result["config"]}  # older results name no part
        for key in (*INERT, "limit"):
            window.pop(key, None)
        own = {key: window.pop(key) for key in OF_THE_POLICY}
        shared = _text([window, served])
        lends = result["bounds"] is not None and "host" not in source["costs"]
        floors = _floors(result["bounds"]) if lends else None
        # The limit, as the requests that it left, is among those that were served.
        run = f"{source['code']} {_text(own)} {shared}"
        may_share = output_of(result) != LOSSY and "host" not in source["costs"]  # another machine's bounds are its own
        return cls(folder, result, complete, run, shared if may_share else None, floors)


def runs(found: Iterable[Found]) -> list[Found]:
    """The results that stand for runs, with whatever bounds there are, in the order of the folders.

    One for each set of results that say the same; each of a device is one.
    """
    alike: dict[str, list[Found]] = defaultdict(list)
    every = sorted(found, key=lambda one: one.folder)
    for one in every:
        alike[one.run].append(one)
    lenders = _lenders(every)
    made = []
    for group in alike.values():
        best = min(
            group, key=lambda one: (not one.complete, "scores" not in one.result, one.floors is None, one.folder)
        )
        others = tuple(one.folder for one in group if one is not best)
        made.append(replace(best, result=_with_bounds(best, lenders), also_in=others))
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
    lender = lenders.get(one.window or "") if one.floors is None else None
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


def finished(path: Path, faults: list[str]) -> Iterator[Found]:
    """The results below a folder; ``faults`` is given a line for each that cannot be read."""
    for folder in _folders(path, faults):
        try:
            result = read_document(folder / RESULT)
        except UserError as error:
            faults.append(str(error))
            continue
        complete = any((folder / name).is_file() for name in REQUESTS)
        try:
            yield Found.of(folder.relative_to(path).as_posix(), result, complete=complete)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            faults.append(no_result(folder / RESULT, error))


def _folders(path: Path, faults: list[str]) -> list[Path]:
    """The folders of finished runs, sorted; hidden ones are unfinished. What lies inside a run is the run's."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    found, others, lost = [], 0, list[Path]()
    for here, below, files in os.walk(path):
        if RESULT in files:
            found.append(Path(here))
            below.clear()
        elif CONFIG in files and any(name in files for name in (*REQUESTS, *LAYERS)):
            lost.append(Path(here))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
        others += len(files)
    faults += [f"{folder}: has no {RESULT}; remove it to run the cell again" for folder in sorted(lost)]
    if not found and not lost:
        what = "it is empty" if not others else f"none of its files is a {RESULT}"
        raise UserError(f"{path}: no finished run in it or below it ({what}); python -m sim run out={path} makes one")
    return sorted(found)


def traced(folder: Path) -> str:
    """The word for its trace with which a run was asked for. UserError where its configuration cannot be read."""
    path = folder / CONFIG
    try:
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["trace"])
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not the configuration of a run ({brief(error)})") from None


def tell(faults: list[str], damaged: list[str] | None, *, nothing: bool, depth: int = 3) -> None:
    """Hand on what could not be read, or warn of it in the caller's caller's name. UserError if nothing could."""
    if nothing:
        more = f" (and {counted(len(faults) - 1, 'more damaged result')})" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}")
    if damaged is not None:
        damaged += faults
        return
    for line in faults:
        warnings.warn(f"left out: {line}", stacklevel=depth)


def table(folder: Path, names: Sequence[str], dtypes: Mapping[str, str]) -> dict[str, list[Any]]:
    """The columns ``dtypes`` (pandas' names of types) of the table in one of ``names``, None where a row has no figure.

    UserError if it is not there, not a table, of other types, or empty.
    """
    import pyarrow as pa
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: has no {one_of(names)}; remove it to run the cell again")
    try:
        parquet = file.suffix == ".parquet"
        read = pq.ParquetFile(file).read(use_threads=False) if parquet else pcsv.read_csv(file)
        if not len(read):
            raise ValueError("it has no rows")
        for name in set(LATER).intersection(dtypes).difference(read.column_names):
            read = read.append_column(name, pa.array([0] * len(read)))
        for name, dtype in dtypes.items():
            if not _holds(read.column(name), dtype):
                raise ValueError(f"column {name} is {read.column(name).type}, not {dtype}")
        return {name: read.column(name).to_pylist() for name in dtypes}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file}: not the {file.stem} of a run ({brief(error)})") from None


def _holds(column: pa.ChunkedArray, dtype: str) -> bool:
    """Whether a column of a file is what a frame calls ``dtype``; "int64" has no nulls."""
    from pyarrow import types

    whole = (types.is_signed_integer, types.is_null)
    kinds = {"string": (types.is_string, types.is_large_string), "float64": (*whole, types.is_floating)}
    right = any(is_kind(column.type) for is_kind in kinds.get(dtype, whole))
    return right and not (dtype == "int64" and column.null_count)


def no_result(path: Path, error: Exception) -> str:
    return f"{path}: not the result of a run ({brief(repr(error))} is wrong or missing)"
