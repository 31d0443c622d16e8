"""Finished runs as tables: ``sim.load``, a row per run; ``load_requests``, per request; ``load_layers``, per layer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.core.accounts import HIT_KINDS, STALLS
from sim.results.columns import COLUMNS, DTYPES, FRAME_SCHEMA, NEEDED, leaves, row
from sim.results.finished import LAYERS, REQUESTS, RESULT, finished, no_result, table, tell
from sim.results.twins import Run, runs
from traces.kit.errors import UserError
from traces.kit.whole import whole, writable

if TYPE_CHECKING:
    import pandas as pd

RUN_KEY = ("folder", "source", "cell", "policy", "policy_label", "lossless", "budget_bytes", "seed")
REQUEST_DTYPES = {
    "request": "int64",
    "admitted_ns": "int64",
    "prefill_end_ns": "Int64",
    "end_ns": "int64",
    "prefill_rows": "int64",
    "decode_steps": "int64",
    "ttft_ns": "Int64",
    "tpot_ns": "float64",
}
"""Of the columns that :func:`load_requests` adds to RUN_KEY; times in ns since the start of the run."""

_COUNTS = ("layer", *HIT_KINDS, *(f"stall_{name}_ns" for name in STALLS))
LAYER_DTYPES = {"phase": "string", **dict.fromkeys(_COUNTS, "int64")}
"""Of the columns that :func:`load_layers` adds to RUN_KEY: counts of lookups, bytes, and ns."""

GROUPS = ("policy", "model", "hardware", "workload")
"""Of the keys of a configuration, those that are mappings with a name."""

LARGEST = 2**63 - 1
"""What a column of whole numbers holds; no time or size is larger."""

_META = b"moe_offload_frame"


def load(path: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row per finished run below a folder, or of a Parquet file that :func:`save` wrote.

    The columns are ``sim.results.columns.COLUMNS`` and, after them, the settings in which rows of one name differ. Rows
    are in the order of policy, budget, seed and folder, whatever the order of the files. Results that differ only in
    what was kept beside them are one run (:mod:`sim.results.twins`).

    ``damaged``: is given a line for each result that cannot be read, or is of another schema; without it they are
    warned of. UserError if there is nothing to read, or nothing that can be read.
    """
    import pandas as pd

    path = Path(path)
    if path.is_file():
        return _read(path)
    made, faults = [], list[str]()
    for run in runs(finished(path, faults)):
        try:
            made.append(_row(run))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            faults.append(no_result(path / run.folder / RESULT, error))
    tell(faults, damaged, nothing=not made)
    rows = [own for own, _ in made]
    for own, extra in zip(rows, _differing([groups for _, groups in made]), strict=True):
        own.update(extra)
    frame = pd.DataFrame({c.name: _array([r[c.name] for r in rows], DTYPES[c.kind]) for c in COLUMNS})
    fixed = {column.name for column in COLUMNS}
    for name in sorted({name for own in rows for name in own} - fixed):
        frame[name] = _settings([own.get(name) for own in rows])
    order = ["policy_label", "budget_bytes", "seed", "source", "folder"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def load_requests(path: str | Path, runs: pd.DataFrame | None = None, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row per run and measured request: RUN_KEY of the run, and REQUEST_DTYPES.

    ``runs``: rows of ``load(path)``; only theirs are read. ``damaged`` and UserError: as of :func:`load`.
    """
    return _inside(path, runs, REQUESTS, RUN_KEY, REQUEST_DTYPES, damaged)


def load_layers(path: str | Path, runs: pd.DataFrame | None = None, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row per run, phase and MoE layer: RUN_KEY and generated_tokens of the run, and LAYER_DTYPES.

    ``runs``: rows of ``load(path)``; only theirs are read. ``damaged`` and UserError: as of :func:`load`.
    """
    return _inside(path, runs, LAYERS, (*RUN_KEY, "generated_tokens"), LAYER_DTYPES, damaged)


def _inside(
    path: str | Path,
    runs: pd.DataFrame | None,
    files: Sequence[str],
    keys: Sequence[str],
    dtypes: Mapping[str, str],
    damaged: list[str] | None,
) -> pd.DataFrame:
    """The rows of a table that each run holds in one of ``files``, beside the ``keys`` of the run."""
    path = Path(path)
    if path.is_file():
        what = files[0].partition(".")[0]
        raise UserError(f"{path}: a folder is wanted; {what} are read from the runs themselves")
    faults = list[str]()
    chosen = load(path, faults) if runs is None else runs
    parts = [_any_table(path, own, files, dtypes, faults) for own in chosen.to_dict("records")]
    there = [part is not None for part in parts]
    tell(faults, damaged, nothing=bool(len(chosen)) and not any(there), depth=4)
    known = [part for part in parts if part is not None]
    lengths = [len(next(iter(part.values()))) for part in known]
    own_keys = chosen.loc[there, list(keys)]
    made = own_keys.loc[own_keys.index.repeat(lengths)].reset_index(drop=True)
    for name in dtypes:
        made[name] = _array([value for part in known for value in part[name]], dtypes[name])
    return made


def _any_table(
    path: Path, run: Mapping[Any, Any], files: Sequence[str], dtypes: Mapping[str, str], faults: list[str]
) -> dict[str, list[Any]] | None:
    """A run's table, from whichever of its folders has one that can be read."""
    why = list[str]()
    for folder in (run["folder"], *json.loads(run.get("also_in") or "[]")):
        try:
            return table(path / str(folder), files, dtypes)
        except UserError as error:
            why.append(str(error))
    faults.append(why[0])
    return None


def save(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame of :func:`load` to a Parquet file, whole or not at all, with the version of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    about = {_META: str(FRAME_SCHEMA).encode(), **(table.schema.metadata or {})}
    with writable(str(path)), whole(path) as part:
        pq.write_table(table.replace_schema_metadata(about), part)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        raise UserError(f"{path}: neither a folder with results nor a Parquet file of them") from None
    if found.get(_META) != str(FRAME_SCHEMA).encode():
        has = found.get(_META, b"none").decode()
        raise UserError(f"{path}: a frame of schema {has}; this version reads {FRAME_SCHEMA}; load the folder again")
    return pd.read_parquet(path)


def _row(run: Run) -> tuple[dict[str, Any], list[tuple[str, str, dict[str, Any]]]]:
    """A run's row, and the settings of its groups. KeyError, TypeError, AttributeError, ValueError if it has none."""
    made = row(run.result, run.folder)
    made["also_in"] = json.dumps(run.also_in)
    for column in COLUMNS:
        value = made[column.name]
        if not _fits(value, column.kind) or (value is None and column.name in NEEDED):
            raise ValueError(f"{column.name}={value!r}")
    config = run.result["config"]
    return made, [(g, str(config[g]["name"]), dict(leaves(config[g], g))) for g in GROUPS]


def _fits(value: object, kind: str) -> bool:
    """Whether a column of a frame can hold a value; null it always can."""
    if value is None:
        return True
    if kind == "text":
        return isinstance(value, str)
    if kind == "truth" or isinstance(value, bool):
        return kind == "truth" and isinstance(value, bool)
    if not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST and (kind == "number" or isinstance(value, int))


def _differing(runs: Sequence[Iterable[tuple[str, str, Mapping[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """For each run the settings in which it and another of the same policy, model, machine or workload differ.

    ``runs``: of each, group, name and settings.
    """
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for groups in runs:
        for group, name, settings in groups:
            for key, value in settings.items():
                seen[group, name, key].add(repr(value))
    differ = {key for (_, _, key), values in seen.items() if len(values) > 1} - {"workload.batch"}
    for groups in runs:
        yield {key: value for *_, settings in groups for key, value in settings.items() if key in differ}


def _array(values: Sequence[Any], dtype: str) -> Any:
    """Values, None among them, as an array of one of the types of a frame."""
    import pandas as pd

    if dtype == "float64":
        return pd.array(values, dtype="Float64").to_numpy(dtype, na_value=float("nan"))
    return pd.array(values, dtype=dtype)  # type: ignore[call-overload]


def _settings(values: Sequence[Any]) -> Any:
    """Settings as one type: numbers (a profile's exact fractions too) where all are, else text."""
    try:
        return _array([None if v is None else _number(str(v)) for v in values], "float64")
    except (ValueError, ZeroDivisionError, OverflowError):
        return _array([None if v is None else str(v) for v in values], "string")


def _number(text: str) -> float:
    """``0.1``, ``1e-3`` or ``1/3``. ValueError, ZeroDivisionError or OverflowError for others."""
    value = float(Fraction(text)) if "/" in text else float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
