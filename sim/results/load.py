"""Finished runs as tables: ``sim.load``, a row per run; ``load_requests``, per request; ``load_layers``, per layer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.core.accounts import HIT_KINDS, STALLS
from sim.results.column import DTYPES
from sim.results.columns import COLUMNS, FRAME_SCHEMA, NEEDED, leaves, row
from sim.results.finished import LAYERS, REQUESTS, RESULT, Found, finished, no_result, runs, table, tell
from traces.kit.errors import UserError
from traces.kit.whole import whole, writable

if TYPE_CHECKING:
    import pandas as pd

RUN_KEY = ("folder", "source", "cell", "policy", "policy_label", "lossless", "output", "budget_bytes", "seed")
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
KINDS: dict[str, Any] = {"text": str, "whole": int, "number": int | float, "truth": bool}
LARGEST = 2**63 - 1
"""What a column of whole numbers holds; no time or size is larger."""
_META = b"moe_offload_frame"


def load(path: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row per finished run below a folder, or of a Parquet file that :func:`save` wrote.

    The columns are ``sim.results.columns.COLUMNS`` and, after them, the settings in which rows of one name differ. Rows
    are in the order of policy, budget, seed and folder, whatever the order of the files. Results that differ only in
    what was kept beside them are one run (:mod:`sim.results.finished`).

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
    frame = pd.DataFrame({c.name: _array([own[c.name] for own, _ in made], DTYPES[c.kind]) for c in COLUMNS})
    differing = _differing([groups for _, groups in made])
    for name in sorted({name for own in differing for name in own}):
        frame[name] = _settings([own.get(name) for own in differing])
    order = ["policy_label", "budget_bytes", "seed", "source", "folder"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def load_requests(path: str | Path, runs: pd.DataFrame | None = None, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row per run and measured request: RUN_KEY of the run, and REQUEST_DTYPES.

    ``runs``: rows of ``load(path)``; only theirs are read. ``damaged`` and UserError: as of :func:`load`.
    """
    return _inside(path, runs, REQUESTS, RUN_KEY, REQUEST_DTYPES, damaged)


def load_served(path: str | Path, runs: pd.DataFrame | None = None, damaged: list[str] | None = None) -> pd.DataFrame:
    """As :func:`load_requests`, of runs in which requests arrive: a row per arrival, and ``first_pass_ns``."""
    return _inside(path, runs, REQUESTS, RUN_KEY, REQUEST_DTYPES | {"first_pass_ns": "int64"}, damaged)


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
    faults, parts, lengths = list[str](), list[dict[str, list[Any]]](), list[int]()
    chosen = load(path, faults) if runs is None else runs
    for run in chosen.to_dict("records"):
        why = list[str]()
        for folder in (run["folder"], *json.loads(run.get("also_in") or "[]")):
            try:
                parts.append(table(path / str(folder), files, dtypes))
            except UserError as error:
                why.append(str(error))
            else:
                lengths.append(len(next(iter(parts[-1].values()))))
                break
        else:
            faults.append(why[0])
            lengths.append(0)
    tell(faults, damaged, nothing=bool(len(chosen)) and not parts, depth=4)
    made = chosen.loc[chosen.index.repeat(lengths), list(keys)].reset_index(drop=True)
    for name, dtype in dtypes.items():
        made[name] = _array([value for part in parts for value in part[name]], dtype)
    return made


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


def _row(run: Found) -> tuple[dict[str, Any], list[tuple[str, str, dict[str, Any]]]]:
    """A run's row, and the settings of its groups. KeyError, TypeError, AttributeError, ValueError if it has none."""
    made = row(run.result, run.folder)
    made["also_in"] = json.dumps(run.also_in)
    for column in COLUMNS:
        value = made[column.name]
        if not _fits(value, column.kind) or (value is None and column.name in NEEDED):
            raise ValueError(f"{column.name}={value!r}")
    config = run.result["config"]
    return made, [(g, str(config[g]["name"]), dict(leaves(config[g], g))) for g in GROUPS]


def _fits(value: Any, kind: str) -> bool:
    """Whether a column of a frame can hold a value; null it always can."""
    if value is None:
        return True
    right = isinstance(value, KINDS[kind]) and isinstance(value, bool) == (kind == "truth")
    return right and (isinstance(value, str) or abs(value) <= LARGEST)


def _differing(runs: Sequence[Iterable[tuple[str, str, Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """For each run the settings in which it and another of the same policy, model, machine or workload differ.

    ``runs``: of each, group, name and settings.
    """
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for groups in runs:
        for group, name, settings in groups:
            for key, value in settings.items():
                seen[group, name, key].add(repr(value))
    differ = {key for (_, _, key), values in seen.items() if len(values) > 1} - {"workload.batch"}
    return [
        {key: value for *_, settings in groups for key, value in settings.items() if key in differ} for groups in runs
    ]


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
