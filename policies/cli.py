"""The command line ``python -m policies``: fit predictors before a run, and write what they say beside a trace."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from traces.format.predicted import check_name
from traces.format.reader import Trace, open_trace
from traces.kit.errors import UserError, allowing
from traces.kit.options import check_choice, parse_options
from traces.version import SHOWN

HELP = """\
Fit what policies predict with.

  python -m policies fit NAME trace=DIR out=FILE [...]
      fit the predictors of the policy NAME, such as promoe, on train requests
  python -m policies apply NAME predictor=FILE trace=DIR [...]
      write what they say beside a trace

Add --help to a verb for its options; --version says which this is.
Exit status: 0 done, 2 an error that is yours to mend (one line on stderr).
"""
APPLY_HELP = """\
python -m policies apply NAME predictor=FILE trace=DIR [key=value ...]

Writes predicted/NAME/ into the folder of a trace of the model that the
predictor was fitted on: the experts that it names for every token and layer, so
that python -m sim run policy=NAME trace=DIR needs numpy only.

  predictor    what python -m policies fit wrote
  trace        the folder of a trace with the predictor's inputs
  beside       the folder of another trace of the same tokens and experts, to
               write beside that one instead
  name         by default what the policy looks for: for promoe promoe, then
               _routing, then _strideN unless it is 2
  overwrite    true: replace what has that name  [false]
"""


@dataclass(frozen=True)
class ApplyOptions:
    """See APPLY_HELP."""

    predictor: str
    trace: str
    beside: str = ""
    name: str = ""
    overwrite: str = "false"

    def __post_init__(self) -> None:
        check_choice("overwrite", self.overwrite, ("true", "false"))
        if self.name:
            check_name(self.name)


def main(args: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        return _dispatch(args)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _dispatch(args: list[str]) -> int:
    verbs = {"fit": _fit, "apply": _apply}
    verb, words = (args[0], args[1:]) if args else ("--help", [])
    if verb in ("-h", "--help", "--version"):
        print(SHOWN if verb == "--version" else HELP, end="")
        return 0
    if verb not in verbs:
        raise UserError(f"{verb}: no such command; {allowing(verb, [*verbs, '--help'])}")
    if "-h" in words or "--help" in words:
        print(APPLY_HELP if verb == "apply" else _help_of_fit(words[0]), end="")
        return 0
    verbs[verb](words[0] if words else "", words[1:])
    return 0


def _help_of_fit(kind: str) -> str:
    from policies.predictors.fitter import fitter_of, fitters

    kinds = [kind] if kind not in ("-h", "--help") else sorted(fitters())
    return "\n".join(fitter_of(kind, f"fit {kind}").text for kind in kinds)


def _fit(kind: str, words: list[str]) -> None:
    from policies.predictors import fitting
    from policies.predictors.fitter import fitter_of
    from traces.writing.predicted import refuse_existing

    fitter = fitter_of(kind, f"fit {kind or '(nothing)'}")
    options = parse_options(fitter.options, words)
    trace = _open("trace", options.trace)
    others = [_open("apply", word) for word in dict.fromkeys(options.apply.split(",")) if word]
    name, overwrite = options.name or fitter.called(options.input, options.stride), options.overwrite == "true"
    for other in others:
        refuse_existing(other, name, overwrite=overwrite)
    fitted = fitting.fit(fitter, options, trace, others)
    for other in others:
        fitting.apply(fitter, fitted, other, name=name, overwrite=overwrite)


def _apply(kind: str, words: list[str]) -> None:
    from policies.predictors import fitting, saved
    from policies.predictors.fitter import fitter_of

    fitter = fitter_of(kind, f"apply {kind or '(nothing)'}")
    options = parse_options(ApplyOptions, words)
    fitted, trace = saved.load(Path(options.predictor)), _open("trace", options.trace)
    beside = _open("beside", options.beside) if options.beside else None
    fitting.apply(fitter, fitted, trace, beside=beside, name=options.name, overwrite=options.overwrite == "true")


def _open(key: str, word: str) -> Trace:
    if not Path(word).is_dir():
        raise UserError(f"{key}={word}: no such folder; allowed: the folder of a trace")
    return open_trace(word)
