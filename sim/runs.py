"""Finished runs as tables: ``sim.load``, a row per run; ``load_requests``, per request; ``load_layers``, per layer."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.core.accounts import HIT_KINDS, STALLS
from sim.frame import COLUMNS, DTYPES, FRAME_SCHEMA, leaves, row
from sim.store import SCHEMA
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd

RESULT = "result.json"
REQUESTS = ("requests.parquet", "requests.csv")  # a device may lack Parquet
LAYERS = ("layers.parquet", "layers.csv")
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

_META = b"moe_offload_frame"


def load(path: str | Path) -> pd.DataFrame:
    """One row per finished run below a folder, or of a Parquet file that :func:`save` wrote.

    The columns are ``sim.frame.COLUMNS`` and, after them, the settings in which rows of one name differ. Rows are in
    the order of policy, budget, seed and folder, whatever the order of the files. UserError if nothing is there to
    read, if a result cannot be read, or if results are of other schemas than this version's.
    """
    import pandas as pd

    path = Path(path)
    if path.is_file():
        return _read(path)
    rows, settings = [], []
    for folder in _folders(path):
        result = _result(folder / RESULT)
        try:
            rows.append(row(result, folder.relative_to(path).as_posix()))
            config = result["config"]
            settings.append([(g, str(config[g]["name"]), dict(leaves(config[g], g))) for g in GROUPS])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{folder / RESULT}: not the result of a run ({error!r} is wrong or missing)") from None
    for made, extra in zip(rows, _differing(settings), strict=True):
        made.update(extra)
    frame = pd.DataFrame({c.name: _array([r[c.name] for r in rows], DTYPES[c.kind]) for c in COLUMNS})
    fixed = {column.name for column in COLUMNS}
    for name in sorted({name for made in rows for name in made} - fixed):
        frame[name] = _settings([made.get(name) for made in rows])
    order = ["policy_label", "budget_bytes", "seed", "source", "folder"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def load_requests(path: str | Path, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per run and measured request: RUN_KEY of the run, and REQUEST_DTYPES.

    ``runs``: rows of ``load(path)``; only theirs are read. UserError as :func:`load`.
    """
    return _inside(path, runs, REQUESTS, RUN_KEY, REQUEST_DTYPES)


def load_layers(path: str | Path, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per run, phase and MoE layer: RUN_KEY and generated_tokens of the run, and LAYER_DTYPES.

    ``runs``: rows of ``load(path)``; only theirs are read. UserError as :func:`load`.
    """
    return _inside(path, runs, LAYERS, (*RUN_KEY, "generated_tokens"), LAYER_DTYPES)


def _inside(
    path: str | Path,
    runs: pd.DataFrame | None,
    files: Sequence[str],
    keys: Sequence[str],
    dtypes: Mapping[str, str],
) -> pd.DataFrame:
    """The rows of a table that each run holds in one of ``files``, beside the ``keys`` of the run."""
    path = Path(path)
    if path.is_file():
        what = files[0].partition(".")[0]
        raise UserError(f"{path}: a folder is wanted; {what} are read from the runs themselves")
    chosen = load(path) if runs is None else runs
    parts = [_table(path / str(folder), files, tuple(dtypes)) for folder in chosen["folder"]]
    lengths = [len(next(iter(part.values()))) for part in parts]
    made = chosen[list(keys)].loc[chosen.index.repeat(lengths)].reset_index(drop=True)
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
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table.replace_schema_metadata(about), temp)
        temp.replace(path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # pyarrow has words of its own for it
        raise UserError(f"{path}: cannot be written ({why})") from None
    finally:
        with suppress(OSError):  # there may be no such folder
            temp.unlink()


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


def _folders(path: Path) -> list[Path]:
    """The folders of finished runs, sorted; hidden ones are unfinished. What lies inside a run is the run's."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    found, others = [], 0
    for here, below, files in os.walk(path):
        if RESULT in files:
            found.append(Path(here))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
        others += len(files)
    if not found:
        what = "it is empty" if not others else f"none of its files is a {RESULT}"
        raise UserError(f"{path}: no finished run in it or below it ({what}); python -m sim run out={path} makes one")
    return sorted(found)


def _result(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not a result ({error})") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise UserError(f"{path}: not a result of python -m sim run or python -m real run")
    if found["schema"] != SCHEMA:
        raise UserError(
            f"{path}: a result of schema {found['schema']}; this version reads {SCHEMA}. Run it again, or keep results"
            " of different schemas in different folders"
        )
    return found


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
        return _array([None if v is None else float(Fraction(str(v))) for v in values], "float64")
    except (ValueError, ZeroDivisionError):
        return _array([None if v is None else str(v) for v in values], "string")


def _table(folder: Path, names: Sequence[str], columns: Sequence[str]) -> dict[str, list[Any]]:
    """Column by column, None where a row has no such figure. UserError if it is not there or not a table."""
    import pyarrow as pa
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: has no {one_of(names)}; remove it to run the cell again")
    try:
        parquet = file.suffix == ".parquet"
        table = pq.ParquetFile(file).read(use_threads=False) if parquet else pcsv.read_csv(file)
        return {name: table.column(name).to_pylist() for name in columns}
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: not the {file.stem} of a run ({' '.join(str(error).split())})") from None
