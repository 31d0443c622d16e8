"""Import ``route_trace v1``: a CSV that a runtime on a device wrote while it served from flash.

The format is BigMoeOnEdge's (github.com/Helldez/BigMoeOnEdge, docs on metrics). Header lines give the bytes of one
expert per layer, 0 for a dense one; then one row per (turn, phase, step, layer, slot), its columns by name, of which
the later ones may be missing. A step is a position in the context. Prefill was one pass: its tokens become one step of
the trace; a turn that begins at a later position, or with a decode step, has the earlier ones in its KV cache. The
runtime computes the last layer only for the token it needs, the last of the prompt; the others are absent there.

Residency (2: the first use of a prefetched expert) and bytes read belong to that run of the device and not to the
routing: checked, then left out. So does ``dropped``, which marks what the router chose and the device did not compute:
it stays, being what the router chose, unless ``dropped=absent`` is given. ``dense_bytes`` is what reading a layer's
other weights costs (its docs on telemetry, Route trace), and becomes the model's.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np

from traces.format.layout import PREFILL
from traces.format.manifest import Recorder
from traces.importers import Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.counts import are_counts_in
from traces.importers.files import Line, check_request_size, text_lines
from traces.kit.errors import one_of

_MAX_ENTRIES = 2**20
_COLUMNS: Mapping[str, str] = {
    "turn": r"\d{1,9}",
    "phase": "[01]",
    "step": r"\d{1,9}",
    "layer": r"\d{1,5}",
    "slot": r"\d{1,5}",
    "expert": r"\d{1,5}",
    "weight": r"[0-9.e+-]{1,30}|nan",
    "residency": "[012]",
    "expert_bytes": r"\d{1,18}",
    "dropped": "[01]",
}
_NEEDED = 6
_MODEL = (
    r"# model=(?P<model>.+) arch=(?P<arch>\S+) n_layer=(?P<n_layer>[1-9]\d{0,4}) n_expert=(?P<n_expert>[1-9]\d{0,4})"
    r" n_expert_used=(?P<n_expert_used>[1-9]\d{0,4})"
)
_LAYER = r"# layer=0*{} expert_bytes=(\d{{1,18}}) dense_bytes=(\d{{1,18}})"


@dataclass(frozen=True)
class _Head:
    model: str
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...]
    dense_bytes: tuple[int, ...]
    row: re.Pattern[str]
    lines: int


@dataclass
class _Turn:
    number: int
    line: Line
    tokens: dict[tuple[int, int], dict[tuple[int, int], tuple[int, float]]] = field(default_factory=dict)
    """(phase, step) -> (layer, slot) -> (expert, weight)"""


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the CSV file ``source``; each turn becomes a request.

    Slots are put by descending weight; where a weight is nan, which is how the device says that it knows none, no
    weights are imported and the slots stay in the router's order. Memory is bounded by the longest turn.
    """
    head = _read_head(source)
    weighted, dropped = "weight" in head.row.groupindex, 0
    for _, row in _rows(source, head):
        weighted = weighted and row["weight"] != "nan"
        dropped += row.get("dropped") == "1"
    if not weighted:
        options.note("weights are left out: the file does not know them (nan); slots stay in the router's order")
    absent = options.own.get("dropped") == "absent"
    decoding: dict[str, Any] = {}
    if dropped:
        done = "are absent entries" if absent else "stay, as the router chose them; dropped=absent leaves them out"
        options.note(f"{dropped:,} experts that the device dropped and did not compute {done}")
        decoding |= {"dropped": "absent"} if absent else {}
    recorder, sizes = Recorder("route_trace", "1", None), (len(head.expert_bytes), head.n_experts, head.top_k)
    file = File(recorder, head.model, *sizes, head.expert_bytes, head.dense_bytes, decoding, ids="expert")
    seen = [layer for layer, size in enumerate(head.expert_bytes) if size and layer not in options.without_layers]
    found = partial(_found, head, seen=seen, weighted=weighted)
    return build(source, target, options, file, lambda: map(found, _turns(source, head, absent=absent)))


def _found(head: _Head, turn: _Turn, seen: list[int], *, weighted: bool) -> Found:
    """Return the request; TraceError unless each token saw the layers ``seen``, as it must."""
    tokens = sorted(turn.tokens)
    prompt = sum(phase == PREFILL for phase, _ in tokens)
    steps, name = [step for _, step in tokens], f"turn {turn.number}"
    if 0 < prompt < len(tokens) and steps[prompt] <= steps[prompt - 1]:
        raise turn.line.refuse(f"{name}, first decode step", steps[prompt], f"above {steps[prompt - 1]}")
    for before, step in pairwise(steps):
        if step != before + 1:
            allowed = f"{before + 1}: positions in the context, none left out"
            raise turn.line.refuse(f"{name}, step after {before}", step, allowed)
    shape = (len(tokens), len(head.expert_bytes), head.top_k)
    check_request_size(turn.line.file, *shape)
    ids, weights, there = np.full(shape, -1, np.int32), np.zeros(shape), np.zeros(shape, bool)
    for row, token in enumerate(tokens):
        for place, (expert, weight) in turn.tokens[token].items():
            ids[row][place], weights[row][place], there[row][place] = expert, 0 if expert < 0 else weight, True
    needed = np.broadcast_to(np.isin(np.arange(shape[1]), seen)[:, None], shape).copy()
    needed[: max(0, prompt - 1), -1] = False  # the last layer is computed for the last token of a prompt alone
    for row, layer, slot in np.argwhere(needed & ~there)[:1].tolist():
        lost, allowed = f"layer {layer}, slot {slot}", "every layer, and every slot of it"
        if slot == 0:
            lost, allowed = f"layer {layer}", f"{allowed}; without_layers={layer} leaves the layer out"
        raise turn.line.refuse(f"{name}, step {steps[row]}, {lost}", "missing", allowed)
    signals = {"expert_weights": weights} if weighted else {}
    return Found(f"{turn.line.file}: {name}", ids, prompt, start=steps[0], signals=signals)


def _lines(source: Path) -> Iterator[tuple[Line, str]]:
    return ((line, raw.decode("latin-1")) for line, raw in text_lines(source, "route_trace", 4096))


def _read_head(source: Path) -> _Head:
    lines, line = _lines(source), Line(source.name, 0)

    def expect(pattern: str, allowed: str) -> re.Match[str]:
        nonlocal line
        line, text = next(lines, (Line(source.name, line.number + 1), ""))
        if match := re.fullmatch(pattern, text):
            return match
        if line.number == 1 and are_counts_in(text):
            raise line.refuse_counts()
        raise line.refuse("line", text, allowed)

    expect("# route_trace v1", "# route_trace v1")
    model = expect(_MODEL, "# model=PATH arch=NAME n_layer=L n_expert=E n_expert_used=K")
    sizes = []
    for layer in range(int(model["n_layer"])):
        match = expect(_LAYER.format(layer), f"# layer={layer} expert_bytes=BYTES dense_bytes=BYTES")
        sizes.append((int(match[1]), int(match[2])))
    row = _row_pattern(expect(".*", "the columns")[0], line)
    name = PurePosixPath(model["model"]).name.removesuffix(".gguf")
    experts, dense = zip(*sizes, strict=True)
    return _Head(name, int(model["n_expert"]), int(model["n_expert_used"]), experts, dense, row, line.number)


def _row_pattern(text: str, line: Line) -> re.Pattern[str]:
    """Return the pattern of a row whose columns, in any order, are those of the line ``text``."""
    columns = text.split(",")
    for column in columns:
        if column not in _COLUMNS or columns.count(column) > 1:
            raise line.refuse("column", column, f"{one_of(_COLUMNS)}, once each")
    for column in list(_COLUMNS)[:_NEEDED]:
        if column not in columns:
            raise line.refuse("columns", text, f"{column} among them")
    return re.compile(",".join(f"(?P<{column}>{_COLUMNS[column]})" for column in columns))


def _rows(source: Path, head: _Head) -> Iterator[tuple[Line, dict[str, str]]]:
    for line, text in _lines(source):
        if line.number <= head.lines:
            continue
        if (match := head.row.fullmatch(text)) is None:
            hint = "; the file ends in this line, and limit=N takes the N turns before it"
            raise line.refuse("line", text, f"the columns {one_of(head.row.groupindex)}{hint * line.cut}")
        yield line, match.groupdict()


def _turns(source: Path, head: _Head, *, absent: bool) -> Iterator[_Turn]:
    """Yield the turns in the order of the file, one in memory at a time; ``absent``: without what was dropped."""
    turn: _Turn | None = None
    entries = 0
    for line, row in _rows(source, head):
        number, phase, step, layer, slot, expert = (int(row[column]) for column in list(_COLUMNS)[:_NEEDED])
        if turn is None or number != turn.number:
            if turn is not None:
                yield turn
                if number < turn.number:
                    raise line.refuse("turn", number, f"above {turn.number}, the previous turn")
            turn, entries = _Turn(number, line), 0
        sizes = {"layer": len(head.expert_bytes), "slot": head.top_k, "expert": head.n_experts}
        for value, (name, size) in zip((layer, slot, expert), sizes.items(), strict=True):
            if value >= size:
                raise line.refuse(name, value, f"0 to {size - 1}")
        if not head.expert_bytes[layer]:
            raise line.refuse("layer", layer, "one whose expert_bytes in the header are not 0")
        if int(row.get("expert_bytes", 0)) not in (0, head.expert_bytes[layer]):
            raise line.refuse("expert_bytes", row["expert_bytes"], f"0 or {head.expert_bytes[layer]}")
        slots = turn.tokens.setdefault((phase, step), {})
        if (layer, slot) in slots:
            raise line.refuse("slot", slot, "once per turn, phase, step and layer")
        gone = absent and row.get("dropped") == "1"
        slots[layer, slot] = (-1 if gone else expert, _weight(line, row.get("weight", "nan")))
        entries += 1
        line.at_most("rows of one turn", entries, _MAX_ENTRIES)
    if turn is None:
        raise Line(source.name, head.lines + 1).refuse("line", "missing", "at least one row")
    yield turn


def _weight(line: Line, text: str) -> float:
    with suppress(ValueError):
        if 0 <= (weight := float(text)) < math.inf or math.isnan(weight):
            return weight
    raise line.refuse("weight", text, "a finite number, at least 0, or nan")


IMPORTER = Importer(
    "route_trace",
    import_trace,
    "the CSV of BigMoeOnEdge's runtime, version 1, a turn per request\n",
    {
        "dropped": Annotated[
            Literal["keep", "absent"],
            "absent: experts that the device dropped are absent entries; without it they stay as the router chose them",
        ]
    },
)
