"""Mutated sources are imported, and then open, or refused in one line; what is imported is what the file says."""

import base64
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

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
)
from tests.traces.importers.imported import raw_of
from traces import Trace
from traces.importers import Options
from traces.importers.arrivals import read_arrivals

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


def route_trace() -> bytes:
    lines = ["# route_trace v1", "# model=m.gguf arch=x n_layer=2 n_expert=8 n_expert_used=2"]
    lines += [f"# layer={layer} expert_bytes=100 dense_bytes=5" for layer in range(2)]
    lines += ["turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"]
    for turn, step, layer, slot in product(range(2), range(4), range(2), range(2)):
        lines += [f"{turn},{step // 2},{step},{layer},{slot},{step + slot},0.{9 - slot},0,100"]
    return raw_of(lines)


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


SOURCES = {
    "npz, deflated": ("npz", archive(np.savez_compressed, **NPZ)),
    "npz, stored": ("npz", archive(np.savez, **NPZ)),
    "jsonl": ("jsonl", jsonl(weights=False)),
    "jsonl, weights": ("jsonl", jsonl(weights=True)),
    "routed_experts, responses": ("routed_experts", responses()),
    "routed_experts, npz": ("routed_experts", archive(np.savez, a=IDS, b=IDS, prompt_tokens=[4, 6])),
    "route_trace": ("route_trace", route_trace()),
}
MORE = {
    "routed_experts, cached": ("routed_experts", cached()),
    "route_trace, dropped": ("route_trace", dropped()),
    "npz, Fortran": ("npz", archive(np.savez, **FORTRAN)),
    "jsonl, array": ("jsonl", b"[" + b",\n".join(jsonl(weights=True).splitlines()) + b"]"),
    "jsonl, gzipped": ("jsonl", gzip.compress(jsonl(weights=False), mtime=0)),
}
OPTIONS = Options(split=Fraction(1, 2), own={"n_layers": 2, "top_k": 3, "dropped": "absent"})
WITHOUT = {"routed_experts, cached": frozenset({0})}


@pytest.mark.parametrize("name", SOURCES)
@FUZZ
@given(edits=EDITS)
def test_sources(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    import_one(tmp_path, name, *SOURCES[name], edits)


@pytest.mark.parametrize("name", MORE)
@settings(FUZZ, max_examples=EXAMPLES if EXAMPLES > SHORT else 25)
@given(edits=EDITS)
def test_more_sources(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    import_one(tmp_path, name, *MORE[name], edits)


def import_one(tmp_path: Path, name: str, kind: str, raw: bytes, edits: list[Edit]) -> None:
    changed, options = mutated(raw, edits), replace(OPTIONS, without_layers=WITHOUT.get(name, frozenset()))
    trace = attempted(tmp_path, kind, changed, options)
    if trace and kind == "jsonl" and name != "jsonl, gzipped":
        assert says(changed) == chosen(trace)


def says(raw: bytes) -> list[list[frozenset[int]]]:
    """What the file says, read without care: per token the sets of experts of the layers that any token has some in."""
    rows = [row for row in json_rows(raw) if "ids" in row]
    layers = sorted({row["layer"] for row in rows})
    tokens: dict[tuple[int, int], dict[int, frozenset[int]]] = {}
    for row in rows:
        tokens.setdefault((row.get("request", 0), row["token"]), {})[row["layer"]] = frozenset(row["ids"])
    return [[found.get(layer, frozenset()) for layer in layers] for found in tokens.values()]


def chosen(trace: Trace) -> list[list[frozenset[int]]]:
    return [[frozenset(ids.tolist()) - {trace.absent} for ids in layers] for layers in trace.expert_ids]


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
