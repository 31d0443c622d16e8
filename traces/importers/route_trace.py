"""Import ``route_trace v1``: a CSV that a runtime on a device wrote while it served from flash.

Header lines give the bytes of one expert per layer; then one row per (turn, phase, step, layer, slot). A step
of the file is one token. Prefill was one pass: its tokens become one step of the trace. The runtime computes
the last layer only for the token it needs, the last of the prompt; the others are absent there. Residency, bytes
read and ``dense_bytes`` belong to that run of the device and not to the routing: checked, then dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from traces.errors import TraceError
from traces.format import DECODE, PREFILL, Array, shown
from traces.importers import Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import check_request_size, text_lines
from traces.manifest import Recorder

_MAX_ENTRIES = 2**20
_COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"
_MODEL = re.compile(
    r"# model=(?P<model>.+) arch=(?P<arch>\S+) n_layer=(?P<n_layer>\d{1,5}) n_expert=(?P<n_expert>\d{1,5})"
    r" n_expert_used=(?P<n_expert_used>\d{1,5})"
)
_LAYER = re.compile(r"# layer=(\d{1,5}) expert_bytes=([1-9]\d{0,17}) dense_bytes=(\d{1,18})")
_ROW = re.compile(r"(\d{1,9}),([01]),(\d{1,9}),(\d{1,5}),(\d{1,5}),(\d{1,5}),([0-9.e+-]{1,30}),([01]),(\d{1,18})")


@dataclass(frozen=True)
class _Head:
    model: str
    n_layers: int
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...]
    lines: int


@dataclass
class _Turn:
    number: int
    line: int
    tokens: dict[tuple[int, int], dict[tuple[int, int], tuple[int, float]]]
    """(phase, step) -> (layer, slot) -> (expert, weight)"""


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the CSV file ``source`` as a trace in the new folder ``target``; returns ``target``.

    Each turn becomes a request that starts with an empty KV cache. Slots are put by descending weight.
    ``output_tokens`` is one more than the decode passes: the prompt's pass yields the first token. Memory is
    bounded by the longest turn. Raises TraceError with file, line and field.
    """
    head = _read_head(source)
    file = File(
        recorder=Recorder("route_trace", "1", None),
        model=head.model,
        n_layers=head.n_layers,
        n_experts=head.n_experts,
        top_k=head.top_k,
        expert_bytes=head.expert_bytes,
    )
    return build(source, target, options, file, lambda: (_found(source, head, turn) for turn in _turns(source, head)))


def _found(source: Path, head: _Head, turn: _Turn) -> Found:
    prompt, generated = _phases(source, head, turn)
    shape = (head.n_layers, head.top_k)
    check_request_size(source.name, len(turn.tokens), *shape)
    ids, weights = _arrays(turn, prompt + generated, shape)
    return Found(f"{source.name}: turn {turn.number}", ids, len(prompt), signals={"expert_weights": weights})


def _refusal(source: Path, line: int, field: str, value: object, allowed: str) -> TraceError:
    return TraceError(f"{source.name}: line {line}, {field} is {shown(value)}; allowed: {allowed}")


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    for line, raw in text_lines(source, "route_trace", 4096):
        yield line.number, raw.decode("latin-1")


def _read_head(source: Path) -> _Head:
    lines = _lines(source)
    number, line = next(lines, (1, ""))
    if line != "# route_trace v1":
        raise _refusal(source, number, "line", line, "# route_trace v1")
    number, line = next(lines, (2, ""))
    model = _MODEL.fullmatch(line)
    if model is None:
        allowed = "# model=PATH arch=NAME n_layer=L n_expert=E n_expert_used=K"
        raise _refusal(source, number, "line", line, allowed)
    n_layers = int(model["n_layer"])
    sizes: list[int] = []
    for layer in range(n_layers):
        number, line = next(lines, (number + 1, ""))
        match = _LAYER.fullmatch(line)
        if match is None or int(match[1]) != layer:
            raise _refusal(source, number, "line", line, f"# layer={layer} expert_bytes=BYTES dense_bytes=BYTES")
        sizes.append(int(match[2]))
    number, line = next(lines, (number + 1, ""))
    if line != _COLUMNS:
        raise _refusal(source, number, "line", line, _COLUMNS)
    name = PurePosixPath(model["model"]).name.removesuffix(".gguf")
    return _Head(name, n_layers, int(model["n_expert"]), int(model["n_expert_used"]), tuple(sizes), number)


def _turns(source: Path, head: _Head) -> Iterator[_Turn]:
    """Yield the turns in the order of the file, one in memory at a time."""
    turn: _Turn | None = None
    entries = 0
    for number, line in _lines(source):
        if number <= head.lines:
            continue
        match = _ROW.fullmatch(line)
        if match is None:
            raise _refusal(source, number, "line", line, f"the columns {_COLUMNS}")
        turn_id, phase, step, layer, slot, expert = (int(text) for text in match.groups()[:6])
        if turn is None or turn_id != turn.number:
            if turn is not None:
                yield turn
                if turn_id < turn.number:
                    raise _refusal(source, number, "turn", turn_id, f"above {turn.number}, the previous turn")
            turn, entries = _Turn(turn_id, number, {}), 0
        for field, value, size in (
            ("layer", layer, head.n_layers),
            ("slot", slot, head.top_k),
            ("expert", expert, head.n_experts),
        ):
            if value >= size:
                raise _refusal(source, number, field, value, f"0 to {size - 1}")
        if int(match[9]) not in (0, head.expert_bytes[layer]):
            raise _refusal(source, number, "expert_bytes", match[9], f"0 or {head.expert_bytes[layer]}")
        slots = turn.tokens.setdefault((phase, step), {})
        if (layer, slot) in slots:
            raise _refusal(source, number, "slot", slot, "once per turn, phase, step and layer")
        slots[layer, slot] = (expert, _weight(source, number, match[7]))
        entries += 1
        if entries > _MAX_ENTRIES:
            raise _refusal(source, number, "rows of one turn", entries, f"at most {_MAX_ENTRIES}")
    if turn is None:
        raise _refusal(source, head.lines + 1, "line", "missing", "at least one row")
    yield turn


def _weight(source: Path, number: int, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise _refusal(source, number, "weight", text, "a finite number, at least 0")
    return weight


def _phases(source: Path, head: _Head, turn: _Turn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the tokens of the prompt and the generated ones, in order, if each saw the layers it must."""
    tokens = sorted(turn.tokens)
    prompt = [token for token in tokens if token[0] == PREFILL]
    generated = [token for token in tokens if token[0] == DECODE]
    where = f"turn {turn.number}"
    if not prompt:
        raise _refusal(source, turn.line, where, "without prefill", "prefill rows, which give the length of the prompt")
    if generated and generated[0][1] <= prompt[-1][1]:
        raise _refusal(source, turn.line, f"{where}, first decode step", generated[0][1], f"above {prompt[-1][1]}")
    for token in tokens:
        layers = {layer for layer, _ in turn.tokens[token]}
        needed = head.n_layers - (token in prompt[:-1])
        if not set(range(needed)) <= layers:
            missing = min(set(range(needed)) - layers)
            raise _refusal(source, turn.line, f"{where}, step {token[1]}, layer {missing}", "missing", "every layer")
    return prompt, generated


def _arrays(turn: _Turn, tokens: list[tuple[int, int]], shape: tuple[int, int]) -> tuple[Array, Array]:
    ids = np.full((len(tokens), *shape), -1, np.int32)
    weights = np.zeros(ids.shape)
    for row, token in enumerate(tokens):
        for (layer, slot), (expert, weight) in turn.tokens[token].items():
            ids[row, layer, slot], weights[row, layer, slot] = expert, weight
    return ids, weights


IMPORTER = Importer("route_trace", import_trace, "route_trace: the CSV of BigMoeOnEdge's runtime, version 1.\n")
