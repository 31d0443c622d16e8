"""Mutated recordings of runtimes are imported, and then hold what the file says, or are refused in one line."""

import csv
import io
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.fuzz.mutate import EDITS, EXAMPLES, FUZZ, SHORT, Edit, attempted, json_rows, mutated, text_lines
from tests.traces.importers.imported import raw_of
from traces import Trace
from traces.importers import Options, sglang_pt

Rows = dict[int, list[frozenset[int]]]
"""Per layer with routing the experts of each token that has any, in order."""


def chosen(step: int, layer: int, slot: int) -> int:
    return (3 * step + 5 * layer + 7 * slot) % 11


def narrow_llama() -> bytes:
    rows = ["layer,expert"]
    for step, size in enumerate((2, 1, 1)):
        for layer in (0, 2):
            tokens = range(size if layer == 0 else 1)
            rows += [f"{layer},{chosen(step + token, layer, slot)}" for token in tokens for slot in range(2)]
    return raw_of(rows + rows)


def wide_llama() -> bytes:
    rows: list[str] = []
    for step, positions in enumerate(([-2, -1], [-2, -1], [-5], [0], [1])):
        for layer in (0, 2):
            for position in positions if layer == 0 else positions[-1:]:
                ids = ",".join(str(chosen(step + position, layer, slot)) for slot in range(2))
                rows.append(f"{position},{layer},{ids}")
    return raw_of(rows + rows)


def megatron() -> bytes:
    rows = []
    for step, size in enumerate((3, 1, 2, 1, 1)):
        for layer in (0, 1):
            top = [[chosen(step + token, layer, slot) for slot in range(2)] for token in range(size)]
            row = {"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": 0}
            rows.append({**row, "num_tokens": size, "topk": 2, "top_indices": top})
    return raw_of(rows)


def moe_beyond() -> bytes:
    rows = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    for layer in (1, 2):
        rows += [f'{layer},0,t{token},"[{chosen(token, layer, 0)}, {chosen(token, layer, 1)}]"' for token in range(4)]
    return "\r\n".join([*rows, *rows, ""]).encode()


def vllm(passes: bool) -> bytes:
    rows: list[Any] = [{"type": "meta", "model_id": "m", "layers_logged": [0, 2], "top_k": 2, "num_experts": 11}]
    for request, (first, size), layer in product(("r0", "r1"), ((0, 3), (3, 1), (4, 1)), (0, 2)):
        for index in range(size):
            ids = [chosen(first + index, layer, slot) for slot in range(2)]
            row = {"type": "route", "req_id": request, "token_idx": index if passes else first + index, "layer": layer}
            rows.append({**row, "topk_ids": ids, "topk_weights": [0.75, 0.25]})
    return raw_of(rows)


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


def has(trace: Trace) -> list[list[frozenset[int]]]:
    """The rows of the trace by layer, those without an expert left out."""
    layers = trace.expert_ids.transpose(1, 0, 2).tolist()
    return [[row for ids in rows if (row := frozenset(ids) - {trace.absent})] for rows in layers]


SOURCES: dict[str, tuple[str, bytes, dict[str, Any], Callable[[bytes], Rows]]] = {
    "llama_cpp, layer,expert": ("llama_cpp", narrow_llama(), {"top_k": 2, "ubatch": 3}, says_narrow_llama),
    "llama_cpp, pos,layer,ids": ("llama_cpp", wide_llama(), {}, says_wide_llama),
    "megatron": ("megatron", megatron(), {}, says_megatron),
    "megatron, training": ("megatron", megatron(), {"mode": "training"}, says_megatron),
    "moe_beyond": ("moe_beyond", moe_beyond(), {}, says_moe_beyond),
    "vllm_log, requests": ("vllm_log", vllm(passes=False), {}, says_vllm),
    "vllm_log, passes": ("vllm_log", vllm(passes=True), {"token_idx": "pass"}, partial(says_vllm, passes=True)),
}


@pytest.mark.parametrize("name", SOURCES)
@FUZZ
@given(edits=EDITS)
def test_texts(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    kind, raw, own, says = SOURCES[name]
    changed, notes = mutated(raw, edits), list[str]()
    options = Options(split=Fraction(1, 2), own=own, note=notes.append)
    if trace := attempted(tmp_path, kind, changed, options):
        if cut := re.search(r"left out: the rows from line (\d+) on", "\n".join(notes)):
            changed = b"\n".join(changed.split(b"\n")[: int(cut[1]) - 1])
        said = {layer: [row for row in rows if row] for layer, rows in says(changed).items()}
        assert has(trace) == [said[layer] for layer in sorted(said) if said[layer]]


@cache
def sglang() -> bytes:
    """A recording of five passes."""
    from tests.traces.importers.sglang_files import record, recording

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


# Each file goes through another process, which takes longer: fewer of them, unless many are asked for.
FEW = settings(FUZZ, max_examples=EXAMPLES // 3 if EXAMPLES > SHORT else 12)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not forked there")
@pytest.mark.parametrize("part", ["bytes", "members", "pickle"])
@FEW
@given(edits=EDITS, member=st.integers(0, 14))
def test_sglang_pt(tmp_path: Path, part: str, edits: list[Edit], member: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tests.traces.importers.sglang_files import forked

    monkeypatch.setattr(sglang_pt, "spawn", forked)
    # The first member is the pickle.
    raw = mutated(sglang(), edits) if part == "bytes" else remade(sglang(), member * (part == "members"), edits)
    if trace := attempted(tmp_path, "sglang_pt", raw, Options()):
        assert trace.L <= 3
        assert trace.N <= 14
