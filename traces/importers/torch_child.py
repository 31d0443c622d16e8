"""A program of its own, in which torch reads one recording of SGLang's; it imports nothing else of this package.

``python -P torch_child.py SOURCE FOLDER`` loads SOURCE with ``weights_only=True``, which builds tensors and plain
containers and runs nothing that the file brings, under limits of memory, time and output. What SGLang's recorder
writes per token (see sglang_pt.py) goes into FOLDER as plain arrays:

    ids.npy        int32 [N, L, S], the ids of all passes, -1 where nothing was written
    tokens.npy     int64 [2, N], the token ids and their positions
    passes.npy     int64 [P, 5]: tokens, forward_mode, rank, forward_pass_id, lengths in lengths.npy (-1: none given)
    lengths.npy    int64 [sum of the last column], tokens of each sequence of a prefill pass
    map.npy        int64 [L, experts], the logical expert of each physical one

The last line on stdout is ``done``, or ``refused`` and the field, its value and what is allowed, as one JSON list.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

HEADROOM = 2**30
"""Bytes of memory beyond the file itself (mapped) and what torch takes before it reads."""
_MAX_INT = 2**31 - 1
_MAX_ID = 65534
_PASS = ("input_ids", "positions", "extend_seq_lens", "forward_mode", "forward_pass_id", "rank", "topk_ids_of_layer")


class FileError(Exception):
    """What is wrong with the file: the field, its value, what is allowed."""


def limit(source: Path) -> None:
    """Bound the memory, the time and the output of this process by the size of ``source``, in bytes."""
    size = source.stat().st_size
    taken = Path("/proc/self/statm")  # Linux; elsewhere as much as torch takes with room to spare
    pages = int(taken.read_text().split()[0]) if taken.exists() else 2**22
    memory = pages * resource.getpagesize() + size + HEADROOM
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: 60 + size // 2**22, resource.RLIMIT_CORE: 0}
    for what, most in (limits | {resource.RLIMIT_FSIZE: 4 * size + 2**20}).items():
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most, hard) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))


def convert(source: Path, folder: Path) -> None:
    """Load ``source`` and write its arrays into ``folder``; raises FileError."""
    import torch

    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch's advice on how to unpickle it all the same is not repeated.
        reason = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0] if lines else "")
        found = f"{type(error).__name__}: {reason}"
        raise FileError("content", found, "a file that torch reads with weights_only") from None
    records = _records(content)
    table = _array(torch, content.get("last_physical_to_logical_map"), "last_physical_to_logical_map", 2)
    passes, lengths, tokens = list[tuple[int, ...]](), list[int](), list[Any]()
    shape: tuple[int, ...] = ()
    for number, record in enumerate(records):
        one, sequences, pair, own = _pass(torch, record, f"records[{number}]")
        if shape not in ((), own):
            found = f"{own[0]} layers, {own[1]} slots"
            raise FileError(f"records[{number}].topk_ids_of_layer", found, f"{shape}, as above")
        shape = own
        passes.append(one)
        lengths += sequences
        tokens.append(pair)
    total = sum(rows for rows, *_ in passes)
    if not total:
        raise FileError("records", f"{len(records)} passes without tokens", "at least one token")
    arrays = {"map": table, "passes": passes, "lengths": lengths, "tokens": np.concatenate(tokens, axis=1)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array, np.int64), allow_pickle=False)
    with (folder / "ids.npy").open("wb") as stream:
        header = {"descr": "<i4", "fortran_order": False, "shape": (total, *shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for number, record in enumerate(records):
            field = f"records[{number}].topk_ids_of_layer"
            ids = _array(torch, record["topk_ids_of_layer"], field, 3)
            if ids.size and not -1 <= int(ids.min()) <= int(ids.max()) <= _MAX_ID:
                raise FileError(field, f"{ids.min()} to {ids.max()}", f"-1 to {_MAX_ID}")
            stream.write(np.ascontiguousarray(ids.transpose(1, 0, 2), "<i4").data)


def _records(content: Any) -> list[Any]:
    counts = "the recorder's mode per_token; this file has counts of experts, without their order"
    if not isinstance(content, dict):
        raise FileError("content", type(content).__name__, "a dict with records")
    if "logical_count" in content and "records" not in content:
        raise FileError("logical_count (mode stat)", "counts", counts)
    records = content.get("records")
    if not isinstance(records, list) or not all(type(record) is dict for record in records):
        raise FileError("records", _short(records), "a list of dicts, one per forward pass")
    if not records:
        raise FileError("records", "an empty list", "at least one forward pass")
    missing = [number for number, record in enumerate(records) if "topk_ids_of_layer" not in record]
    if missing:
        if all("global_physical_count" in records[number] for number in missing):
            raise FileError(f"records[{missing[0]}].global_physical_count (mode per_pass)", "counts", counts)
        raise FileError(f"records[{missing[0]}].topk_ids_of_layer", "missing", counts)
    return records


def _pass(torch: Any, record: dict[str, Any], where: str) -> tuple[tuple[int, ...], list[int], Any, tuple[int, ...]]:
    """Return a row of passes.npy, the lengths of its sequences, its tokens [2, rows], and the shape of its ids."""
    for key in _PASS:
        if key not in record:
            raise FileError(f"{where}.{key}", "missing", ", ".join(_PASS))
    if record.get("gatherer_key", "primary") != "primary":
        raise FileError(f"{where}.gatherer_key", _short(record["gatherer_key"]), "primary: no two-batch overlap")
    field = f"{where}.topk_ids_of_layer"
    ids = _array(torch, record["topk_ids_of_layer"], field, 3)
    n_layers, rows, slots = ids.shape
    if not n_layers or not slots:
        raise FileError(f"shape of {field}", f"{tuple(ids.shape)}", "(layers, tokens, slots)")
    pair = {key: _integers(torch, record[key], f"{where}.{key}") for key in ("input_ids", "positions")}
    for key, values in pair.items():
        if len(values) != rows:
            raise FileError(f"length of {where}.{key}", len(values), f"{rows}, the tokens of topk_ids_of_layer")
    given = record["extend_seq_lens"]
    sequences = [] if given is None else _integers(torch, given, f"{where}.extend_seq_lens").tolist()
    numbers = [_integer(record[key], f"{where}.{key}") for key in ("forward_mode", "rank", "forward_pass_id")]
    one = (rows, *numbers, -1 if given is None else len(sequences))
    return one, sequences, np.array([*pair.values()], np.int64).reshape(2, rows), (n_layers, slots)


def _array(torch: Any, value: Any, field: str, axes: int) -> Any:
    """Return ``value`` as an array if it is a plain tensor of integers whose storage has all of its values."""
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if type(value) is not torch.Tensor:
        raise FileError(field, type(value).__name__, "a tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in integers:
        found = f"{value.dtype}, {value.layout}, {value.device}"
        raise FileError(f"kind of {field}", found, "a plain tensor of integers")
    if value.dim() != axes:
        raise FileError(f"shape of {field}", f"{tuple(value.shape)}", f"{axes} axes")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise FileError(f"shape of {field}", f"{tuple(value.shape)}", "as many values as its storage has")
    return value.numpy()


def _integers(torch: Any, value: Any, field: str) -> Any:
    values = _array(torch, value, field, 1).tolist() if type(value) is torch.Tensor else value
    if type(values) is not list:
        raise FileError(field, _short(values), "a list of integers")
    return np.array([_integer(item, field) for item in values], np.int64)


def _integer(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_INT:
        raise FileError(field, _short(value), f"an integer, 0 to {_MAX_INT}")
    return value


def _short(value: Any) -> str:
    """Render a value without walking through it: it can be nested without end."""
    return str(value)[:100] if value is None or type(value) in (bool, int, float, str) else type(value).__name__


def run(source: Path, folder: Path) -> int:
    """Convert under limits and say how it went; torch is imported before."""
    try:
        limit(source)
        convert(source, folder)
    except FileError as error:
        refused = error.args
    except MemoryError:
        refused = ("content", "larger in memory than its size allows", "a file of the recorder's")
    except OSError as error:
        refused = ("content", error.strerror or "unreadable", "a readable file, room for its copy")
    else:
        print("done", flush=True)
        return 0
    print("refused", json.dumps([str(part)[:400] for part in refused]), flush=True)
    return 1


if __name__ == "__main__":
    import torch  # before there are limits, which count from what it takes

    torch.set_num_threads(1)
    sys.exit(run(*map(Path, sys.argv[1:3])))
