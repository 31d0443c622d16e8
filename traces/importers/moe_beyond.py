"""Import the CSVs of MoE-Beyond's data set, in which DeepSeek-V2-Lite routed prompts: a file per prompt, or a folder.

    Layer ID,Batch Number,Token,Activated Expert IDs
    1,0,<|begin_of_sentence|>,"[8, 26, 56, 57, 60, 43]"

Source: expert_activation_scripts/generate_deepseek_logs_eamc.py of ngavhane/moe-beyond; generate_deepseek_logs_v2.py
adds a column ``Token Embedding Vector``, which is not read. Layer by layer, all tokens of the prompt in their order, by
batch: nothing numbers them, so the n-th row of a layer is its n-th token. Each prompt was one pass and nothing was
generated. Token is text, not an id. Weights are not written, and the ids come as an unsorted top-k gave them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from traces.format.layout import MAX_EXPERTS
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import MAX_REQUEST_IDS, Line, text_lines
from traces.importers.found import Cells
from traces.importers.passes import MAX_LAYERS
from traces.kit.errors import TraceError

_HEAD = "Layer ID,Batch Number,Token,Activated Expert IDs"
_HEADS = (_HEAD.encode(), f"{_HEAD},Token Embedding Vector".encode())
_ROW = re.compile(
    rb'(?P<layer>\d{1,5}),(?P<batch>\d{1,9}),("(?:[^"]|"")*"|[^",]*),'
    rb'(?:"\[(?P<ids>\d{1,5}(?:, ?\d{1,5})*)\]"|\[(?P<one>(?:\d{1,5})?)\])'
    rb'(,(?:"\[[-+0-9.e, naif]*\]"|\[[-+0-9.e naif]*\]))?'
)
_MAX_LINE = 2**22
_MAX_FILES = 2**20


class _Batch:
    """One prompt, and how many tokens each layer has of it."""

    def __init__(self, line: Line, batch: int) -> None:
        self.line, self.batch, self.cells, self.tokens = line, batch, Cells(), Counter[int]()

    def add(self, layer: int, ids: list[int]) -> None:
        self.cells.add(self.tokens[layer], layer, ids)
        self.tokens[layer] += 1

    def found(self) -> Found:
        """Return the request; TraceError where the layers are not of the same tokens."""
        where = f"{self.line.file}: prompt from line {self.line.number} on"
        rows = max(self.tokens.values())
        for layer, length in self.tokens.items():
            if length != rows:
                allowed = f"{rows}, as in other layers: one of a file that was cut off leaves out its last layer"
                raise self.line.refuse(f"tokens of layer {layer} in batch {self.batch}", length, allowed)
        return Found(where, self.cells.arrays(where)[0], prefill=rows)


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import a file, or a folder's in the order of the numbers in their names; memory is bounded by one file."""
    decoding = {"order_within_k": "as written, not by weight", "generated": "nothing: prompts alone"}
    file = File(Recorder("moe_beyond", None, None), source.stem, decoding=decoding, exact=True)
    options.note("prompts: every token is of a prompt, one pass each; nothing was generated")
    return build(source, target, options, file, lambda: _requests(source))


def _requests(source: Path) -> Iterator[Found]:
    layers: set[int] = set()
    for path in _files(source):
        for batch in _read(path):
            layers = layers or set(batch.tokens)
            if odd := layers ^ set(batch.tokens):
                what = "missing" if min(odd) in layers else "there"
                raise batch.line.refuse(f"layer {min(odd)} of this prompt", what, "the layers of the first prompt")
            yield batch.found()


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    try:
        files = [path for path in source.iterdir() if path.name.endswith((".csv", ".csv.gz"))]
    except OSError as error:
        raise TraceError(f"{source}: {error.strerror}; allowed: a readable folder of CSV files") from None
    if not 1 <= len(files) <= _MAX_FILES:
        raise TraceError(f"{source}: {len(files)} CSV files; allowed: 1 to {_MAX_FILES}")
    return sorted(files, key=lambda path: ([int(word) for word in re.findall(r"\d{1,18}", path.name)], path.name))


def _read(path: Path) -> Iterator[_Batch]:
    """Yield the prompts of one file: those behind each header, by batch."""
    batches: dict[int, _Batch] = {}
    line, size, before, headed = Line(path.name, 1), 0, 0, False
    for line, raw in text_lines(path, "CSV", _MAX_LINE):
        if raw in _HEADS:
            yield from batches.values()
            batches, size, before, headed = {}, 0, 0, True
            continue
        match = _ROW.fullmatch(raw)
        if match is None or not headed:
            raise line.refuse_text(raw, f"the header {_HEAD}, and rows of it")
        layer = line.integer("Layer ID", int(match["layer"]), 0, MAX_LAYERS - 1)
        if layer < before:
            raise line.refuse("Layer ID", layer, f"at least {before}: all tokens of a layer, then the next layer")
        before, number = layer, int(match["batch"])
        words = (match["ids"] or match["one"] or b"").replace(b",", b" ").split()
        ids = [line.integer("Activated Expert IDs", int(word), 0, MAX_EXPERTS - 1) for word in words]
        size += len(ids) + 1
        line.at_most("ids of prompts with one header", size, MAX_REQUEST_IDS)
        batches.setdefault(number, _Batch(line, number)).add(layer, ids)
    if not batches:
        raise line.refuse("content", "no routing", f"the header {_HEAD}, and rows of it")
    yield from batches.values()


IMPORTER = Importer(
    "moe_beyond",
    import_trace,
    """\
the CSVs of MoE-Beyond's data set (DeepSeek-V2-Lite): Layer ID, Batch Number,
Token, Activated Expert IDs. SRC is one of them, or their folder: each prompt
is a request of one pass, and nothing was generated. Weights are not written:
the ids of a token stay in the order given.
""",
    {"n_experts": N_EXPERTS},
)
