"""The records of a file of prompts, one at a time: text, JSON lines, a JSON array, or Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traces.importers.files import open_source, plain_lines
from traces.kit.errors import UserError, one_of, shown
from traces.kit.strict import MAX_RECORD, json_array, load_json
from traces.prompts.records import CHATS, KEYS

Records = Iterator[tuple[str, Any]]
_ROWS = 256
_BUFFER = 1 << 16


def read_records(path: Path) -> Records:
    """Yield where a record stands ("chats.jsonl, line 12"), and what it says; see traces.prompts.records.

    The suffix tells the kind: `.jsonl`, one value per line; `.json`, one array; `.parquet`, a table; any other is
    text, one prompt per line. A line ends with "\\n" or "\\r\\n" and with nothing else, since prompts may hold other
    separators; blank lines are no records. Text is UTF-8 without a byte order mark. Memory holds one record, or
    a block of them. Raises UserError with file and line for what cannot be read.
    """
    kinds = {".jsonl": _json_lines, ".json": _objects, ".parquet": _rows}
    return kinds.get(path.suffix.lower(), _text)(path)


def _text(path: Path) -> Records:
    for where, raw in _lines(path, "text"):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: {error.reason} at byte {error.start}; allowed: UTF-8") from None
        if text.startswith("\ufeff"):
            raise UserError(f"{where}: begins with a byte order mark; allowed: UTF-8 without one")
        if text.strip():
            yield where, {"prompt": text}


def _json_lines(path: Path) -> Records:
    for where, raw in _lines(path, "JSON lines"):
        if not raw.strip():
            continue
        try:
            yield where, load_json(raw)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None


def _lines(path: Path, kind: str) -> Iterator[tuple[str, bytes]]:
    for line, raw in plain_lines(path, kind, MAX_RECORD):
        yield f"{path.name}, line {line.number}", raw


def _objects(path: Path) -> Records:
    for number, record in json_array(path):
        yield f"{path.name}, record {number}", record


def _rows(path: Path) -> Records:
    """Rows as objects. Of a table of chats only the columns that a record may have are read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path.name}: Parquet needs the package pyarrow: pip install pyarrow") from None
    with open_source(path, "Parquet") as stream:
        try:
            # Without these two settings whole row groups are read, and a file may be one row group.
            table = ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)
            columns = _columns(path.name, table.schema_arrow.names)
            rows = (row for batch in table.iter_batches(_ROWS, columns=columns) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path.name}, row {number}", row
        except (ArrowException, OSError) as error:
            raise UserError(f"{path.name}: {shown(str(error), 200)}; allowed: a readable Parquet file") from None


def _columns(name: str, names: list[str]) -> list[str]:
    known = (*KEYS, *CHATS)
    unknown = [column for column in names if column not in known]
    if unknown and not set(names) & set(CHATS):
        allowed = f"{one_of(KEYS)}, or a chat in {one_of(CHATS)}"
        raise UserError(f"{name}: unknown column {shown(unknown[0])}; allowed: {allowed}")
    return [column for column in names if column in known]
