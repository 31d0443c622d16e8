"""Small files of prompts for the collector's tests."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KINDS = ("jsonl", "json", "parquet")
CHAT = [("system", "Be brief."), ("user", "Hä?\u2028"), ("assistant", "A1"), ("user", "Why?"), ("assistant", "A2")]
ROLES = [{"role": role, "content": text} for role, text in CHAT]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
FROM = [{"from": SHAREGPT[role], "value": text} for role, text in CHAT]
RECORDS: list[dict[str, Any]] = [
    {"prompt": "plain \u2028 text\nof two lines", "source": "notes", "split": "test", "licence": "MIT"},
    {"messages": ROLES, "max_new_tokens": 7, "licence": "CC0-1.0", "id": "x"},
    {"conversation": ROLES, "source": "lmsys", "model": "vicuna"},
    {"conversations": FROM, "split": "train"},
    {"prompt": "the last"},
]


def write(folder: Path, kind: str, records: list[dict[str, Any]], name: str = "p") -> Path:
    """Write the records as a file of the kind."""
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        columns = {key: value for record in records for key, value in record.items()}
        types = pa.schema([(key, pa.array([value]).type) for key, value in columns.items()])
        pq.write_table(pa.Table.from_pylist(records, types), path)
    elif kind == "json":
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def lines(folder: Path, *texts: str) -> Path:
    """Write lines of JSON."""
    path = folder / "p.jsonl"
    path.write_text("\n".join(texts))
    return path
