"""What finished runs left on disk: their results and tables. What is damaged is named and left out, not fatal."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sim.results.document import brief, read_document
from sim.results.twins import Found
from traces.kit.errors import UserError, one_of
from traces.kit.units import counted

if TYPE_CHECKING:
    import pyarrow as pa

RESULT = "result.json"
REQUESTS = ("requests.parquet", "requests.csv")  # a device may lack Parquet
LAYERS = ("layers.parquet", "layers.csv")
CONFIG = "config.yaml"


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
        for name, dtype in dtypes.items():
            if not _holds(read.column(name), dtype):
                raise ValueError(f"column {name} is {read.column(name).type}, not {dtype}")
        return {name: read.column(name).to_pylist() for name in dtypes}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file}: not the {file.stem} of a run ({brief(error)})") from None


def _holds(column: pa.ChunkedArray, dtype: str) -> bool:
    """Whether a column of a file is what a frame calls ``dtype``; "int64" has no nulls."""
    from pyarrow import types

    if dtype == "string":
        return bool(types.is_string(column.type) or types.is_large_string(column.type))
    whole = types.is_signed_integer(column.type) or types.is_null(column.type)
    if dtype == "int64":
        return bool(whole and not column.null_count)
    return bool(whole or (dtype == "float64" and types.is_floating(column.type)))


def no_result(path: Path, error: Exception) -> str:
    return f"{path}: not the result of a run ({brief(repr(error))} is wrong or missing)"
