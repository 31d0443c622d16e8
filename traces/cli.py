"""The command line ``python -m traces``: words after the verb are paths, then options as key=value."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path

from traces.describe.repeats import repeats_of, warning
from traces.format.reader import open_trace
from traces.importers import Options
from traces.importers.arrivals import add_arrivals
from traces.importers.layers import parse_layers
from traces.importers.registry import find, importers
from traces.kit.errors import Interrupted, UserError, allowing, one_of, shown
from traces.kit.words import folder, integer, member, parse_words, share, text
from traces.version import SHOWN
from traces.writing.workplace import refuse_place

HELP = """\
Work with recorded routing of Mixture-of-Experts models.

python -m traces VERB ...

  check DIR                     verify a trace: hashes, shapes, every value
  inspect DIR [...]             show what was recorded, and which experts
  import FORMAT SRC DST [...]   turn a recording of another tool into a trace
  arrivals LOG DIR DST          copy a trace, with the arrivals of a log
  collect ...                   record a trace from a Hugging Face model
  calibrate out=FILE ...        measure this machine, for the simulator's prices

Add --help to a verb for its options; --version says which this is.
Exit status: 0 done, 2 an error that is yours to mend (one line on stderr).
"""
CHECK_HELP = """\
python -m traces check DIR

Checks the trace in folder DIR: trace.json, the hash and shape of every file,
the requests and steps, and every value; and the outputs of predictors that lie
beside it, in predicted/. Prints one line and exits with 0; or prints the first
thing that is wrong on stderr and exits with 2.

The line also counts rows that name the same experts as the row before in every
layer. Where they are more than chance makes (4 rows and 1 % more than expected
and 1.5 times as many, or a run of 4 and more that one trace in a thousand has),
a warning on stderr says so: a recorder that is stuck writes such rows.
"""
INSPECT_HELP = """\
python -m traces inspect DIR [format=json] [plots=DIR]

Checks the trace in folder DIR, then shows its counts, phases and sources, and
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

  format=json      print JSON instead of tables; format=table is the default
  plots=DIR        also draw a PNG of each figure into folder DIR
"""
IMPORT_HELP = """\
python -m traces import FORMAT SRC DST [key=value ...]

Imports SRC into the new folder DST. What the file does not say and is inferred
is told on stderr, each with the option that states it. Text may be gzipped,
begin with a byte order mark and have blank lines; JSON Lines may also be one
JSON array, or the data: lines of a stream of events.

  split=0.7        share of the requests marked "train", rounded down, the rest
                   "test"; at least one of each (default: no split, and a run
                   measures every request)
  seed=0           which ones: the seed of the permutation
  limit=N          only the first N requests
  without_layers=0,2,4-6
                   leave out these layers of the file, counted from 0: such as
                   have no experts. Layers in which no token has an expert are
                   left out in any case, and named
  phases=decode    only the decode passes; the prompts become context
  model=NAME       name of the model (default: from the file). One of
                   conf/model with as many layers, experts and top-k also
                   prices the trace, so that sim needs no model=
  source=TEXT      where the prompts come from
  licence=TEXT     their licence
  arrivals=FILE    a log of arrivals, Azure's CSV or Mooncake's JSON Lines; its
                   first times, in order, become those of the requests, in
                   seconds since the first

Formats:

"""
ARRIVALS_HELP = """\
python -m traces arrivals LOG DIR DST

Copies the trace in folder DIR to the new folder DST, with arrivals from LOG:
Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or Mooncake's JSON Lines
(timestamp in ms). Its first times, in order, become those of the requests, in
seconds since the first. Predictors' outputs (predicted/) are not copied: they
belong to the other trace.
"""


def main(args: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        return _dispatch(args)
    except UserError as error:
        # One line whatever a path holds.
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads any more: let the flush at the end go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(args: list[str]) -> int:
    verb, rest = (args[0], args[1:]) if args else ("", [])
    if verb in ("", "-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if verb == "--version":
        print(SHOWN, end="")
        return 0
    # Collecting and calibrating need torch, which the other verbs do without.
    if verb == "collect":
        from traces.collect.cli import main as collect

        collect(rest)
        return 0
    if verb == "calibrate":
        from traces.calibrate.cli import main as calibrate

        calibrate(rest)
        return 0
    verbs = {
        "check": (_check, CHECK_HELP),
        "inspect": (_inspect, INSPECT_HELP),
        "import": (_import, IMPORT_HELP),
        "arrivals": (_arrivals, ARRIVALS_HELP),
    }
    if verb not in verbs:
        raise UserError(f"verb is {shown(verb)}; {allowing(verb, [*verbs, 'collect', 'calibrate', '--help'])}")
    run, help_text = verbs[verb]
    if "-h" in rest or "--help" in rest:
        formats = "\n".join(importer.help for importer in importers().values()) if verb == "import" else ""
        print(help_text + formats, end="")
        return 0
    run(rest)
    return 0


def _check(args: list[str]) -> None:
    (folder,), _ = parse_words(args, ("DIR",), {})
    trace = open_trace(folder)
    counts, repeats = trace.manifest.counts, repeats_of(trace)
    predictors = f", predictors {one_of(trace.predicted)}" if trace.predicted else ""
    print(
        f"ok: {folder}: {counts.requests} requests, {counts.steps} steps, {counts.tokens} tokens, "
        f"{trace.L} layers x {trace.E} experts, top-{trace.K}, {repeats.equal} repeated rows, "
        f"sha256 {trace.sha256}{predictors}"
    )
    if (text := warning(repeats)) is not None:
        print(f"warning: {text}", file=sys.stderr)


def _inspect(args: list[str]) -> None:
    keys = {"format": member("format", ("table", "json")), "plots": folder("plots")}
    (place,), options = parse_words(args, ("DIR",), keys)
    from traces.describe import inspect, stats

    trace = open_trace(place)
    figures = stats.describe(trace)
    if "plots" in options:
        # Plotting is rare, and its import takes a second.
        from traces.describe.plots import write_plots

        for path in write_plots(trace, figures, options["plots"]):
            print(f"wrote {path}", file=sys.stderr)
    if options.get("format") == "json":
        print(inspect.as_json(trace, figures))
    else:
        inspect.print_tables(trace, figures)
    if (text := warning(figures.repeats)) is not None:
        print(f"warning: {text}", file=sys.stderr)


def _import(args: list[str]) -> None:
    kind = args[0] if args else ""
    importer = find(kind)
    keys = {
        "split": share,
        "seed": integer("seed", 0, 2**32 - 1),
        "limit": integer("limit", 1, 2**31),
        "model": text("model"),
        "source": text("source"),
        "licence": text("licence"),
        "arrivals": Path,
        "without_layers": parse_layers,
        "phases": member("phases", ("all", "decode")),
        **importer.keys,
    }
    (_, source, target), options = parse_words(args, ("FORMAT", "SRC", "DST"), keys)
    known = {field.name for field in fields(Options)} - {"own"}
    common = {key: value for key, value in options.items() if key in known}
    own = {key: value for key, value in options.items() if key not in known}
    refuse_place(Path(target))  # now, and not after a large file has been read
    importer.run(Path(source), Path(target), Options(**common, own=own, note=_note))
    print(f"imported {source} into {target}: check it with python -m traces check {target}", file=sys.stderr)


def _note(text: str) -> None:
    print(text if text.startswith("warning: ") else f"note: {text}", file=sys.stderr)


def _arrivals(args: list[str]) -> None:
    (log, source, target), _ = parse_words(args, ("LOG", "DIR", "DST"), {})
    add_arrivals(Path(log), Path(source), Path(target))
    print(f"copied {source} to {target}, with the arrivals of {log}", file=sys.stderr)
