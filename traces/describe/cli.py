"""``python -m traces check`` and ``inspect``: is a trace whole, and what was recorded."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from traces.describe.repeats import Repeats, repeats_of, warning
from traces.format.reader import open_trace
from traces.kit.errors import one_of
from traces.kit.vocabulary import Format
from traces.kit.words import Position


@dataclass(frozen=True)
class Check:
    """Checks the trace in folder DIR: trace.json, the hash and shape of every file,
    the requests and steps, and every value; and the outputs of predictors that lie
    beside it, in predicted/. Prints one line and exits with 0; or prints the first
    thing that is wrong on stderr and exits with 2.

    The line also counts rows that name the same experts as the row before in every
    layer. Where they are more than chance makes (4 rows and 1 % more than expected
    and 1.5 times as many, or a run of 4 and more that one trace in a thousand has),
    a warning on stderr says so: a recorder that is stuck writes such rows.
    """

    folder: Annotated[str, Position("DIR"), "of a trace"]


def check(options: Check) -> None:
    trace = open_trace(options.folder)
    counts, repeats = trace.manifest.counts, repeats_of(trace)
    predictors = f", predictors {one_of(trace.predicted)}" if trace.predicted else ""
    print(
        f"ok: {options.folder}: {counts.requests} requests, {counts.steps} steps, {counts.tokens} tokens, "
        f"{trace.L} layers x {trace.E} experts, top-{trace.K}, {repeats.equal} repeated rows, "
        f"sha256 {trace.sha256}{predictors}"
    )
    _warn(repeats)


def _place(value: str) -> Path:
    path = Path(value)
    if not value or not (path.is_dir() or (path.parent.is_dir() and not path.exists())):
        raise ValueError("a folder, or a new one in an existing folder")
    return path


@dataclass(frozen=True)
class Inspect:
    """Checks the trace in folder DIR, then shows its counts, phases and sources, and
    per layer:
      overlap   how many of its experts a token shares with the one before it
                (by chance: K/E)
      reuse     how many other experts of the layer are demanded between two
                demands of an expert: a pool of more slots than that hits
      bits      the entropy of expert popularity
      load      demands of the most popular expert, divided by the mean
      unused    experts that no token chose
      gate +a   how well a gate, applied a layers early, foresees the experts;
                where that was recorded
    Rows that repeat the row before in every layer are counted, with a warning where
    chance cannot have made them (see check). Where there are several sources, their
    overlap and how alike the popularities of their experts are.
    """

    folder: Annotated[str, Position("DIR"), "of a trace"]
    format: Format = "table"
    plots: Annotated[Path | None, _place, "also draw a PNG of each figure into this folder"] = None


def inspect(options: Inspect) -> None:
    from rich.console import Console  # here, since pages are shown where it is missing, too

    from traces.describe.inspect import as_json, tables
    from traces.describe.stats import describe

    trace = open_trace(options.folder)
    stats = describe(trace)
    if options.plots is not None:
        # Plotting is rare, and its import takes a second.
        from traces.describe.plots import write_plots

        for path in write_plots(trace, stats, options.plots):
            print(f"wrote {path}", file=sys.stderr)
    if options.format == "json":
        print(as_json(trace, stats))
    else:
        # What a trace calls itself is text, never markup.
        Console(markup=False, emoji=False, highlight=False).print(*tables(trace, stats))
    _warn(stats.repeats)


def _warn(repeats: Repeats) -> None:
    if repeats.suspicious:
        print(f"warning: {warning(repeats)}", file=sys.stderr)
