"""Small tables as pandas writes them, which is not imported for it: that takes as long as a short run."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

NULLABLE = {"Int64": np.int64, "Float64": np.float64}
"""pandas' types of columns that may have gaps; other whole numbers and floats have none."""


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], **nullable: str) -> None:
    """Write rows that all have the same keys; ``nullable``: the type in NULLABLE of columns that may have None.

    Read by pandas, it is ``pd.DataFrame(rows).astype(nullable)``. TypeError for anything but whole numbers, floats and
    texts.
    """
    columns: dict[str, Any] = {}
    described = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        columns[name], kind, numpy_kind = _column(values, nullable.get(name))
        told = {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        described.append(told)
    about = {
        "index_columns": [],
        "column_indexes": [],
        "columns": described,
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": version("pandas"),
    }
    fields = [(name, column.type) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={"pandas": json.dumps(about)})
    pyarrow.parquet.write_table(pa.Table.from_arrays([*columns.values()], schema=schema), path)


def _column(values: Sequence[Any], nullable: str | None) -> tuple[Any, str, str]:
    """The values in Arrow, and the names of their type. Of buffers, since ``pyarrow.array`` imports pandas."""
    if nullable is not None:
        data = np.array([0 if value is None else value for value in values]).astype(NULLABLE[nullable], casting="safe")
        there = np.packbits([value is not None for value in values], bitorder="little")
        mask = pa.py_buffer(there) if None in values else None
        return _array(data, mask), str(data.dtype), nullable
    if all(isinstance(value, str) for value in values):
        texts = [value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.large_string(), len(texts), buffers), "object", "str"
    data = np.array(values)
    if data.ndim != 1 or data.dtype not in (np.int64, np.float64):
        raise TypeError(f"a column of {data.dtype}")
    return _array(data, None), str(data.dtype), str(data.dtype)


def _array(data: np.ndarray[Any, Any], mask: Any) -> Any:
    kind = pa.int64() if data.dtype == np.int64 else pa.float64()
    return pa.Array.from_buffers(kind, len(data), [mask, pa.py_buffer(data)])
