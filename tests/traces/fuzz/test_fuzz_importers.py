"""Mutated sources are imported, and then hold what the file says, or are refused in one line."""

import base64
import csv
import gzip
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.traces.fuzz.mutate import (
    EDITS,
    EXAMPLES,
    FUZZ,
    SHORT,
    Edit,
    accepted_or_refused,
    attempted,
    json_rows,
    mutated,
    text_lines,
)
from tests.traces.importers import test_llama_cpp as llama_cpp
from tests.traces.importers import test_megatron as megatron
from tests.traces.importers import test_moe_beyond as moe_beyond
from tests.traces.importers import test_route_trace as route_trace
from tests.traces.importers import test_vllm_log as vllm_log
from tests.traces.importers.imported import raw_of
from traces import Trace
from traces.importers import Options, sglang_pt
from traces.importers.arrivals import read_arrivals

Rows = dict[int, list[frozenset[int]]]
"""Per layer the experts of each token, in order; tokens that have none in it may be left out."""

RNG = np.random.default_rng(0)
IDS = np.argsort(RNG.random((6, 2, 10)), axis=-1)[..., :3].astype(np.uint8)
WEIGHTS = RNG.random((6, 2, 3)).astype(np.float16)


def archive(save: Callable[..., None], **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **{name: np.asarray(array) for name, array in arrays.items()})
    return stream.getvalue()


FORTRAN = {"experts": np.asfortranarray(IDS), "req_prefill": [3, 0], "req_decode": [1, 2]}
NPZ = {"experts": IDS, "weights": WEIGHTS, "token_ids": range(6), "req_len": [4, 2], "req_prefill": [3, 0]}


def jsonl(weights: bool) -> bytes:
    rows: list[dict[str, Any]] = [{"model": "m", "n_experts": 12}]
    for request, token, layer in product(range(2), range(3), range(2)):
        row = {"request": request, "phase": "decode" if token > 1 else "prefill", "token": token, "layer": layer}
        row |= {"ids": IDS[token, layer].tolist(), "token_id": token}
        rows.append(row | {"weights": WEIGHTS[token, layer].tolist()} if weights else row)
    return raw_of(rows)


def responses() -> bytes:
    stream = io.BytesIO()
    np.save(stream, IDS)
    npy, bare = (base64.b64encode(raw).decode() for raw in (stream.getvalue(), IDS.astype("<i4").tobytes()))
    counts = {"prompt_tokens": 4, "completion_tokens": 3}
    rows: list[dict[str, Any]] = [{**counts, "routed_experts": IDS.tolist()}]
    rows += [{"usage": counts, "choices": [{"routed_experts": npy}]}, {"meta_info": {**counts, "routed_experts": bare}}]
    return raw_of(rows)


def cached() -> bytes:
    """Prefixes that were cached or left out, absent entries, a stream of parts, and a layer that is left out."""
    ids = np.concatenate([np.zeros((6, 1, 3), int), IDS], axis=1)
    holes = np.where(np.arange(6)[:, None, None] == 4, -1, ids)
    raw = {"data": base64.b64encode(ids.astype("u1").tobytes()).decode(), "shape": [6, 3, 3], "dtype": "uint8"}
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    rows = [
        {"usage": usage, "choices": [{"routed_experts": raw}]},
        {"prompt_tokens": 6, "completion_tokens": 3, "cached_tokens": 2, "routed_experts": holes.tolist()},
        {"usage": usage, "prompt_routed_experts": holes[:4].tolist(), "routed_experts": ids[4:].tolist()},
        {"id": "a", "choices": [{"routed_experts": ids.tolist()}]},
        {"id": "a", "choices": [], "usage": usage},
    ]
    return b"".join(b"data: " + json.dumps(row).encode() + b"\n\n" for row in rows) + b"data: [DONE]\n"


def dropped() -> bytes:
    """The columns of today, a dense layer, and a turn that begins in its context."""
    lines = ["# route_trace v1", "# model=m.gguf arch=x n_layer=3 n_expert=8 n_expert_used=2"]
    lines += [f"# layer={layer} expert_bytes={100 * (layer > 0)} dense_bytes=5" for layer in range(3)]
    lines += ["turn,phase,step,layer,slot,expert,weight,residency,expert_bytes,dropped"]
    steps = [(0, 0, 3), (0, 0, 4), (0, 1, 5), (1, 1, 7), (1, 1, 8)]
    for (turn, phase, step), layer, slot in product(steps, (1, 2), range(2)):
        lines += [f"{turn},{phase},{step},{layer},{slot},{slot + turn},nan,2,0,{slot}"]
    return raw_of(lines)


def says_narrow_llama(raw: bytes) -> Rows:
    found: dict[int, list[int]] = defaultdict(list)
    for line in text_lines(raw):
        if line != b"layer,expert":
            layer, expert = map(int, line.split(b","))
            found[layer].append(expert)
    return {layer: [frozenset(ids[at : at + 2]) for at in range(0, len(ids), 2)] for layer, ids in found.items()}


def says_wide_llama(raw: bytes) -> Rows:
    found: Rows = defaultdict(list)
    for line in text_lines(raw):
        _, layer, *ids = map(int, line.split(b","))
        found[layer].append(frozenset(ids))
    return found


def says_megatron(raw: bytes) -> Rows:
    found: Rows = defaultdict(list)
    for row in json_rows(raw):
        if row.get("block") != "mtp":
            found[row["layer"]] += [frozenset(ids) - {-1} for ids in row["top_indices"]]
    return found


def says_moe_beyond(raw: bytes) -> Rows:
    batches: dict[tuple[int, int], Rows] = {}
    for number, row in enumerate(csv.reader(io.StringIO(raw.decode("latin-1").replace("\r", "")))):
        if row and row[0] == "Layer ID":
            batches[number, -1] = {}
        elif row:
            head = max(key for key in batches if key[1] < 0)
            layers = batches.setdefault((head[0], int(row[1])), defaultdict(list))
            layers[int(row[0])].append(frozenset(map(int, re.findall(r"\d+", row[3]))))
    return merged(batches)


def merged(requests: dict[Any, Rows]) -> Rows:
    """One request after the other."""
    found: Rows = defaultdict(list)
    for layers in requests.values():
        for layer, sets in layers.items():
            found[layer] += sets
    return found


def says_vllm(raw: bytes, *, passes: bool = False) -> Rows:
    requests: dict[Any, Rows] = {}
    run = 0
    for row in json_rows(raw):
        run += row.get("type") == "meta"
        if row.get("type", "route") == "route":
            key = None if passes else (run, str(row.get("req_id", "")))
            requests.setdefault(key, defaultdict(list))[row["layer"]].append(frozenset(row["topk_ids"]) - {-1})
    return merged(requests)


def says_jsonl(raw: bytes) -> Rows:
    tokens: dict[tuple[int, int], dict[int, frozenset[int]]] = {}
    for row in json_rows(raw):
        if "ids" in row:
            cells = tokens.setdefault((row.get("request", 0), row["token"]), {})
            cells[row["layer"]] = frozenset(row["ids"]) - {-1}
    layers = {layer for cells in tokens.values() for layer in cells}
    return {layer: [cells.get(layer, frozenset()) for cells in tokens.values()] for layer in layers}


NARROW = raw_of(llama_cpp.narrow(*llama_cpp.UBATCHES) * 2)
WIDE = raw_of(llama_cpp.wide(*llama_cpp.PROMPT, *llama_cpp.DECODE) * 2)
MEGATRON = raw_of(megatron.trace_of(megatron.A, megatron.B, megatron.C, megatron.D))
PASSES = raw_of(vllm_log.text(*(line for rows in (3, 1, 1, 2, 1) for line in vllm_log.one_pass("r0", *range(rows)))))
Source = tuple[str, bytes, dict[str, Any], Callable[[bytes], Rows] | None]
"""The importer, a valid file, options, and what a file says, read without care."""
SOURCES: dict[str, Source] = {
    "npz, deflated": ("npz", archive(np.savez_compressed, **NPZ), {}, None),
    "npz, stored": ("npz", archive(np.savez, **NPZ), {}, None),
    "jsonl": ("jsonl", jsonl(weights=False), {}, says_jsonl),
    "jsonl, weights": ("jsonl", jsonl(weights=True), {}, says_jsonl),
    "routed_experts, responses": ("routed_experts", responses(), {"n_layers": 2, "top_k": 3}, None),
    "routed_experts, npz": ("routed_experts", archive(np.savez, a=IDS, b=IDS, prompt_tokens=[4, 6]), {}, None),
    "route_trace": ("route_trace", raw_of([*route_trace.HEAD, *route_trace.rows(0), *route_trace.rows(4)]), {}, None),
    "llama_cpp, layer,expert": ("llama_cpp", NARROW, {"top_k": 2, "ubatch": 3}, says_narrow_llama),
    "llama_cpp, pos,layer,ids": ("llama_cpp", WIDE, {}, says_wide_llama),
    "megatron": ("megatron", MEGATRON, {}, says_megatron),
    "megatron, training": ("megatron", MEGATRON, {"mode": "training"}, says_megatron),
    "moe_beyond": ("moe_beyond", raw_of(moe_beyond.text(*moe_beyond.ROWS) * 2), {}, says_moe_beyond),
    "vllm_log, requests": ("vllm_log", raw_of(vllm_log.text(*vllm_log.BATCHED)), {}, says_vllm),
    "vllm_log, passes": ("vllm_log", PASSES, {"token_idx": "pass"}, partial(says_vllm, passes=True)),
}
MORE: dict[str, Source] = {
    "routed_experts, cached": ("routed_experts", cached(), {"n_layers": 3, "top_k": 3}, None),
    "route_trace, dropped": ("route_trace", dropped(), {"dropped": "absent"}, None),
    "npz, Fortran": ("npz", archive(np.savez, **FORTRAN), {}, None),
    "jsonl, array": ("jsonl", b"[" + b",\n".join(jsonl(weights=True).splitlines()) + b"]", {}, says_jsonl),
    "jsonl, gzipped": ("jsonl", gzip.compress(jsonl(weights=False), mtime=0), {}, None),
}
WITHOUT = {"routed_experts, cached": frozenset({0})}


@pytest.mark.parametrize("name", SOURCES)
@FUZZ
@given(edits=EDITS)
@example(edits=[])
def test_sources(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    import_one(tmp_path, name, SOURCES[name], edits)


@pytest.mark.parametrize("name", MORE)
@settings(FUZZ, max_examples=EXAMPLES if EXAMPLES > SHORT else 25)
@given(edits=EDITS)
@example(edits=[])
def test_more_sources(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    import_one(tmp_path, name, MORE[name], edits)


def import_one(tmp_path: Path, name: str, source: Source, edits: list[Edit]) -> None:
    kind, raw, own, says = source
    changed, notes = mutated(raw, edits), list[str]()
    options = Options(split=Fraction(1, 2), own=own, note=notes.append, without_layers=WITHOUT.get(name, frozenset()))
    trace = attempted(tmp_path, kind, changed, options)
    assert trace or edits
    if trace and says:
        if cut := re.search(r"left out: the rows from line (\d+) on", "\n".join(notes)):
            changed = b"\n".join(changed.split(b"\n")[: int(cut[1]) - 1])
        said = [rows for _, rows in sorted(says(changed).items()) if any(rows)]
        whole = all(len(rows) == trace.N for rows in said)
        assert has(trace, whole=whole) == [[row for row in rows if row or whole] for rows in said]


def has(trace: Trace, *, whole: bool) -> list[list[frozenset[int]]]:
    """The rows of the trace by layer; unless ``whole``, those without an expert are left out."""
    layers = [[frozenset(ids) - {trace.absent} for ids in rows] for rows in trace.expert_ids.swapaxes(0, 1).tolist()]
    return [[row for row in rows if row or whole] for rows in layers]


LOGS = {
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    b"2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8\r\n2023-11-16 18:17:04.1,1,2\r\n",
    "mooncake": b'{"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [0, 1]}\n' * 3,
}


@pytest.mark.parametrize("name", LOGS)
@FUZZ
@given(edits=EDITS)
def test_arrivals(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    source = tmp_path / "log"
    source.write_bytes(mutated(LOGS[name], edits))
    if accepted_or_refused(lambda: read_arrivals(source, 3)):
        times = read_arrivals(source, 3)
        assert times[0] == 0
        assert times == sorted(times)


@cache
def sglang() -> bytes:
    """A recording of five passes."""
    from tests.traces.importers.test_sglang_pt import record, recording

    passes: list[Any] = [(1, [0, 1, 2, 0], [3, 1]), (2, [3, 1], None), (1, [2, 3], [2])]
    passes += [(2, [4, 2, 4], None), (2, [5, 3, 5], None)]
    return recording(*(record(number, *one) for number, one in enumerate(passes)))


def remade(raw: bytes, member: int, edits: list[Edit]) -> bytes:
    """Edit one member of the archive and pack it anew, so that sizes and checksums agree."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, "w") as new:
        for number, info in enumerate(old.infolist()):
            content = old.read(info)
            new.writestr(info.filename, mutated(content, edits) if number == member else content)
    return stream.getvalue()


@pytest.mark.parametrize("part", ["bytes", "members", "pickle"])
@settings(FUZZ, max_examples=EXAMPLES // 3 if EXAMPLES > SHORT else 12)
@given(edits=EDITS, member=st.integers(0, 14))
def test_sglang_pt(tmp_path: Path, part: str, edits: list[Edit], member: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tests.traces.importers.test_sglang_pt import here

    monkeypatch.setattr(sglang_pt, "spawn", here)
    # The first member is the pickle.
    raw = mutated(sglang(), edits) if part == "bytes" else remade(sglang(), member * (part == "members"), edits)
    if trace := attempted(tmp_path, "sglang_pt", raw, Options()):
        assert trace.L <= 3
        assert trace.N <= 14
