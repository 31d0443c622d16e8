"""Tables are written as pandas writes them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.results.parquet import write_table

NULLABLE = {"some": "Int64", "none": "Int64", "part": "Float64", "all": "Int64"}
ROWS: list[dict[str, Any]] = [
    {"n": 1, "some": None, "none": None, "part": 2.5, "all": 1, "phase": "prefill", "x": 0.5},
    {"n": -(2**62), "some": 5, "none": None, "part": None, "all": 2, "phase": "", "x": 1.0},
    {"n": 3, "some": None, "none": None, "part": 1e300, "all": 3, "phase": "é, ✓", "x": 2},
]


@pytest.mark.parametrize("count", [1, 3, 11])
def test_pandas_reads_what_it_would_have_written(count: int, tmp_path: Path) -> None:
    rows = (ROWS * 4)[:count]
    write_table(tmp_path / "ours.parquet", rows, **NULLABLE)
    pd.DataFrame(rows).astype(NULLABLE).to_parquet(tmp_path / "theirs.parquet", index=False)
    ours, theirs = (pd.read_parquet(tmp_path / f"{who}.parquet") for who in ("ours", "theirs"))
    pd.testing.assert_frame_equal(ours, theirs)
    assert ours["some"].isna().tolist() == [row["some"] is None for row in rows]


@pytest.mark.parametrize("value", [True, None, [1], 2**70])
def test_nothing_else_is_written(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_table(tmp_path / "it.parquet", [{"n": value}])


def test_no_whole_number_is_made_of_another(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_table(tmp_path / "it.parquet", [{"some": 1.5}, {"some": None}], some="Int64")
