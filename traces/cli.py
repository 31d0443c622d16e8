"""The command line ``python -m traces``: words after the verb are paths, then options as key=value."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from traces.errors import UserError, one_of
from traces.format import MAX_EXPERTS, shown
from traces.importers import Options, npz, route_trace
from traces.reader import open_trace

Parser = Callable[[str], Any]

HELP = """\
Work with recorded routing of Mixture-of-Experts models.

  python -m traces check DIR                     verify a trace: hashes, shapes, every value
  python -m traces inspect DIR [key=value ...]   show what was recorded and how the experts were chosen
  python -m traces import FORMAT SRC DST [...]   turn a recording of another tool into a trace
  python -m traces collect ...                   record a trace from a Hugging Face model
  python -m traces calibrate out=FILE ...        measure this machine, for the simulator to price by

Add --help to a verb for its options. Exit status: 0 done, 2 an error that is yours to mend (one line on stderr).
"""
CHECK_HELP = """\
python -m traces check DIR

Checks the trace in folder DIR: trace.json, the hash and shape of every file, the requests and steps, and every
value. Prints one line and exits with 0; or prints the first thing that is wrong on stderr and exits with 2.
"""
INSPECT_HELP = """\
python -m traces inspect DIR [format=json] [plot=FILE.png]

Checks the trace in folder DIR, then shows its counts, phases and sources; how many of its experts a token shares
with the token before it (uniform chance: K/E); the entropy of expert popularity and the load balance of each
layer; and, where it was recorded, how well a gate applied some layers early foresees the experts.

  format=json      print JSON instead of tables; format=table is the default
  plot=FILE.png    also draw a heat map of popularity, layer by expert
"""
IMPORT_HELP = """\
python -m traces import route_trace SRC.csv DST [key=value ...]
python -m traces import npz SRC.npz DST [key=value ...]

Imports SRC into the new folder DST.

  split=0.7        share of the requests marked "train", rounded down, the rest "test"; at least one of each
                   (default: no split, and a run measures every request)
  seed=0           which ones: the seed of the permutation
  limit=N          only the first N requests
  model=NAME       name of the model (default: from the file)
  source=TEXT      where the prompts come from
  licence=TEXT     their licence
npz only:
  n_experts=E      experts per layer (default: the largest id + 1, rounded up to a multiple of 4)
  meta=FILE        JSON list, may be gzipped, with one object per request; its "dataset" becomes the source

An npz holds experts [N, L, K]; optional weights [N, L, K], token_ids [N]; and one number per request in req_len,
req_offset, req_prefill, req_decode, req_prompt_tokens_not_traced, of which one of the last three is needed.
"""


def main(args: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        return _dispatch(args)
    except UserError as error:
        # One line whatever a path holds.
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _dispatch(args: list[str]) -> int:
    verb, rest = (args[0], args[1:]) if args else ("", [])
    if verb in ("-h", "--help"):
        print(HELP, end="")
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
    verbs = {"check": (_check, CHECK_HELP), "inspect": (_inspect, INSPECT_HELP), "import": (_import, IMPORT_HELP)}
    if verb not in verbs:
        raise UserError(f"verb is {shown(verb)}; allowed: {one_of([*verbs, 'collect', 'calibrate', '--help'])}")
    run, text = verbs[verb]
    if "-h" in rest or "--help" in rest:
        print(text, end="")
        return 0
    run(rest)
    return 0


def _check(args: list[str]) -> None:
    (folder,), _ = _words(args, ("DIR",), {})
    trace = open_trace(folder)
    counts = trace.manifest.counts
    print(
        f"ok: {folder}: {counts.requests} requests, {counts.steps} steps, {counts.tokens} tokens, "
        f"{trace.L} layers x {trace.E} experts, top-{trace.K}, sha256 {trace.sha256}"
    )


def _inspect(args: list[str]) -> None:
    keys = {"format": _member("format", ("table", "json")), "plot": _png}
    (folder,), options = _words(args, ("DIR",), keys)
    from traces import inspect, stats

    trace = open_trace(folder)
    figures = stats.describe(trace)
    if "plot" in options:
        inspect.plot_popularity(trace, figures, options["plot"])
    if options.get("format") == "json":
        print(inspect.as_json(trace, figures))
    else:
        inspect.print_tables(trace, figures)


def _import(args: list[str]) -> None:
    importers = {"route_trace": route_trace.import_trace, "npz": npz.import_trace}
    keys: dict[str, Parser] = {
        "split": _share,
        "seed": _integer("seed", 0, 2**32 - 1),
        "limit": _integer("limit", 1, 2**31),
        "model": _text("model"),
        "source": _text("source"),
        "licence": _text("licence"),
    }
    if args[:1] == ["npz"]:
        keys |= {"n_experts": _integer("n_experts", 1, MAX_EXPERTS), "meta": Path}
    (kind, source, target), options = _words(args, ("FORMAT", "SRC", "DST"), keys)
    _member("FORMAT", tuple(importers))(kind)
    importers[kind](Path(source), Path(target), Options(**options))
    print(f"imported {source} into {target}: check it with python -m traces check {target}", file=sys.stderr)


def _words(args: list[str], names: tuple[str, ...], keys: Mapping[str, Parser]) -> tuple[list[str], dict[str, Any]]:
    """Split the words into the named positions and the options, each parsed by its key's function."""
    paths, words = args[: len(names)], args[len(names) :]
    if len(paths) < len(names):
        raise UserError(f"arguments are {shown(' '.join(args))}; allowed: {' '.join(names)} [key=value ...]")
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys or key in options:
            allowed = ", ".join(f"{key}=..." for key in keys) or "no further words"
            raise UserError(f"option is {shown(word)}; allowed, once each: {allowed}")
        options[key] = keys[key](value)
    return paths, options


def _member(key: str, allowed: tuple[str, ...]) -> Parser:
    def parse(text: str) -> str:
        if text not in allowed:
            raise UserError(f"{key} is {shown(text)}; allowed: {one_of(allowed)}")
        return text

    return parse


def _integer(key: str, low: int, high: int) -> Parser:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
            raise UserError(f"{key} is {shown(text)}; allowed: an integer, {low} to {high}")
        return int(text)

    return parse


def _text(key: str) -> Parser:
    def parse(text: str) -> str:
        if not text or not text.isprintable():
            raise UserError(f"{key} is {shown(text)}; allowed: printable text")
        return text

    return parse


def _share(text: str) -> Fraction:
    try:
        share = Fraction(text) if len(text) < 20 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise UserError(f"split is {shown(text)}; allowed: a share between 0 and 1, such as 0.7")
    return share


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UserError(f"plot is {shown(text)}; allowed: FILE.png in an existing folder")
    return path
