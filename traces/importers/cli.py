"""``python -m traces import`` and ``arrivals``: which formats there are, the words, and what is said on stderr.

Formats are those of this package, and those behind the entry points of other packages.
"""

import sys
from dataclasses import dataclass, fields, make_dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from traces.importers import Importer, Options
from traces.importers.arrivals import add_arrivals
from traces.kit.command import Choice, Command
from traces.kit.errors import UserError, one_of
from traces.kit.words import Position
from traces.writing.workplace import refuse_place

GROUP = "moe_offload.importers"
_OWN = ["route_trace", "npz", "jsonl", "routed_experts", "vllm_log", "sglang_pt", "llama_cpp", "megatron", "moe_beyond"]
"""The modules of this package that have an ``IMPORTER``."""
OURS: list[Importer] = [import_module(f"traces.importers.{name}").IMPORTER for name in _OWN]


@cache
def importers() -> dict[str, Importer]:
    """Return all importers by name, ours first. UserError for a name that two of them have."""
    found = {importer.name: importer for importer in OURS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        where = f"{GROUP}: {point.name}={point.value}"
        importer = point.load()
        if not isinstance(importer, Importer):
            raise UserError(f"{where}: allowed: an instance of traces.importers.Importer")
        if importer.name in found:
            raise UserError(f"{where}: {importer.name} is defined twice; allowed: a name besides {one_of(found)}")
        found[importer.name] = importer
    return found


def _command(importer: Importer) -> Command:
    words: Any = make_dataclass(
        importer.name,
        [
            ("src", Annotated[Path, Position("SRC"), "the recording"]),
            ("dst", Annotated[Path, Position("DST"), "the trace, a new folder"]),
            *((key, kind, None) for key, kind in importer.keys.items()),
        ],
        bases=(Options,),
        namespace={"__doc__": importer.help},
        kw_only=True,
        frozen=True,
    )
    return Command(words, partial(_import, importer))


def _import(importer: Importer, words: Any) -> None:
    common = {field.name: getattr(words, field.name) for field in fields(Options)}
    own = {key: getattr(words, key) for key in importer.keys if key not in common and getattr(words, key) is not None}
    refuse_place(words.dst)  # now, and not after a large file has been read
    importer.run(words.src, words.dst, Options(**common | {"own": own, "note": _note}))
    print(f"imported {words.src} into {words.dst}: check it with python -m traces check {words.dst}", file=sys.stderr)


def _note(text: str) -> None:
    print(text if text.startswith("warning: ") else f"note: {text}", file=sys.stderr)


IMPORT = Choice(
    "FORMAT",
    """\
Imports SRC into the new folder DST. What the file does not say and is inferred
is told on stderr, each with the option that states it. Text may be gzipped,
begin with a byte order mark and have blank lines; JSON Lines may also be one
JSON array, or the data: lines of a stream of events.
""",
    lambda: {name: partial(_command, importer) for name, importer in importers().items()},
)


@dataclass(frozen=True)
class Arrivals:
    """Copies the trace in folder DIR to the new folder DST, with arrivals from LOG:
    Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens), BurstGPT's (Timestamp in
    seconds) or Mooncake's JSON Lines (timestamp in ms). Its first times, in order,
    become those of the requests, in seconds since the first. Predictors' outputs
    (predicted/) are not copied: they belong to the other trace.
    """

    log: Annotated[Path, Position("LOG"), "the arrivals"]
    trace: Annotated[Path, Position("DIR"), "the trace that is copied"]
    dst: Annotated[Path, Position("DST"), "the new one, a folder"]


def arrivals(options: Arrivals) -> None:
    add_arrivals(options.log, options.trace, options.dst)
    print(f"copied {options.trace} to {options.dst}, with the arrivals of {options.log}", file=sys.stderr)
