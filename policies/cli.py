"""The command line ``python -m policies``: fit predictors before a run, and write what they say beside a trace."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from traces.format.predicted import check_name
from traces.format.reader import Trace, open_trace
from traces.kit.errors import UserError, allowing
from traces.kit.options import Ranges, check_choice, check_ranges, parse_options
from traces.version import SHOWN

HELP = """\
Fit what policies predict with.

  python -m policies fit promoe trace=DIR out=FILE [...]
      fit ProMoE's predictors on train requests
  python -m policies apply promoe predictor=FILE trace=DIR [...]
      write what they say beside a trace

Add --help to a verb for its options; --version says which this is.
Exit status: 0 done, 2 an error that is yours to mend (one line on stderr).
"""
FIT_HELP = """\
python -m policies fit promoe trace=DIR out=FILE [key=value ...]

Fits one MLP of two layers per layer of the model, on the train requests of a
trace; a tenth of their prompts is held out to end the fit. Test requests are
never read, and train requests with a test request's prompt are left out. Needs
torch. Progress goes to stderr; FILE.timing.json says how long it took: some 4
minutes of one quiet core for 100,000 tokens of the reference model's shape (14
predictors, 128 inputs, 64 experts, 40 epochs). To apply it takes seconds.

  trace        the folder of a trace with a split, and with hidden states
               (collect it with signals=all)
  out          the predictor's file (safetensors); an existing one is replaced
  apply        folders of traces, comma-separated: write what it says of them,
               as python -m policies apply does  []
  name         under which; by default promoe, then _routing, then _strideN
               unless it is 2
  overwrite    true: replace what has that name beside those traces  [false]

  input        hidden: what enters the gate | routing: the router's scores of
               this and all earlier layers, for traces without hidden states
               [hidden]
  stride       layers from the gate whose input is read to the gate that is
               foretold  [2]
  top_k        experts named per token; 0: as many as the model chooses  [0]
  target       probs: learn the later router's scores | chosen: the experts that
               it chose (where a bias or groups decide, these are not those of
               the highest scores; all that a trace without router_probs has)
               [probs]
  hidden       units of the inner layer (the paper has about 2 M parameters:
               some 1,000 at 2,048 inputs)  [256]
  epochs       at most  [40]
  patience     epochs without a lower held-out loss that end the fit  [5]
  batch        tokens per step  [256]
  rate, decay  of AdamW  [0.001, 0.01]
  tokens       of more train tokens, draw so many  [200000]
  seed         of the division, the weights and the order  [0]
  threads      of the CPU; with 1 the same command gives the same bytes on one
               machine  [1]
"""
APPLY_HELP = """\
python -m policies apply promoe predictor=FILE trace=DIR [key=value ...]

Writes predicted/NAME/ into the folder of a trace of the model that the
predictor was fitted on: the experts that it names for every token and layer, so
that python -m sim run policy=promoe trace=DIR needs numpy only.

  predictor    what python -m policies fit wrote
  trace        the folder of a trace with the predictor's inputs
  beside       the folder of another trace of the same tokens and experts, to
               write beside that one instead
  name         by default promoe, then _routing, then _strideN unless it is 2
  overwrite    true: replace what has that name  [false]
"""


@dataclass(frozen=True)
class FitOptions:
    """See FIT_HELP."""

    RANGES: ClassVar[Ranges] = {
        "stride": (1, 65535),
        "top_k": (0, 65534),
        "hidden": (1, 65536),
        "epochs": (1, 10_000),
        "patience": (1, 10_000),
        "batch": (1, 2**20),
        "tokens": (1, 2**31),
        "seed": (0, 2**32 - 1),
        "threads": (1, 1024),
        "rate": (1e-9, 10.0),
        "decay": (0.0, 100.0),
    }

    trace: str
    out: str
    apply: str = ""
    name: str = ""
    overwrite: str = "false"
    input: str = "hidden"
    stride: int = 2
    top_k: int = 0
    target: str = "probs"
    hidden: int = 256
    epochs: int = 40
    patience: int = 5
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.01
    tokens: int = 200_000
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        check_choice("overwrite", self.overwrite, ("true", "false"))
        check_choice("input", self.input, ("hidden", "routing"))
        check_choice("target", self.target, ("probs", "chosen"))
        check_ranges(self, self.RANGES)
        if self.name:
            check_name(self.name)


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
    verbs = {"fit": (_fit, FIT_HELP), "apply": (_apply, APPLY_HELP)}
    verb, rest = (args[0], args[1:]) if args else ("--help", [])
    if verb in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if verb == "--version":
        print(SHOWN, end="")
        return 0
    if verb not in verbs:
        raise UserError(f"{verb}: no such command; {allowing(verb, [*verbs, '--help'])}")
    run, text = verbs[verb]
    if "-h" in rest or "--help" in rest:
        print(text, end="")
        return 0
    kind, words = (rest[0], rest[1:]) if rest else ("", [])
    if kind != "promoe":
        raise UserError(f"{verb} {kind or '(nothing)'}: no such predictor; {allowing(kind, ['promoe'])}")
    run(words)
    return 0


def _fit(words: list[str]) -> None:
    options = parse_options(FitOptions, words)
    from policies.predictors import promoe
    from policies.predictors.mlp import Settings
    from policies.promoe import fitted_name
    from traces.writing.predicted import refuse_existing

    trace = _open("trace", options.trace)
    others = [_open("apply", word) for word in dict.fromkeys(options.apply.split(",")) if word]
    name, overwrite = options.name or fitted_name(options.input, options.stride), options.overwrite == "true"
    for other in others:
        refuse_existing(other, name, overwrite=overwrite)
    _need_torch()
    settings = {key: getattr(options, key) for key in Settings.__dataclass_fields__}
    plan = promoe.Plan(
        cast(Literal["hidden", "routing"], options.input),
        cast(Literal["probs", "chosen"], options.target),
        options.stride,
        options.top_k or trace.K,
        options.tokens,
        options.threads,
        Settings(**settings),
    )
    fitted = promoe.fit(trace, Path(options.out), plan, others)
    for other in others:
        promoe.apply(fitted, other, name=name, overwrite=overwrite)


def _apply(words: list[str]) -> None:
    options = parse_options(ApplyOptions, words)
    from policies.predictors import promoe, saved

    fitted = saved.load(Path(options.predictor))
    trace = _open("trace", options.trace)
    beside = _open("beside", options.beside) if options.beside else None
    given: dict[str, Any] = {"name": options.name or None, "overwrite": options.overwrite == "true"}
    promoe.apply(fitted, trace, beside=beside, **given)


def _open(key: str, word: str) -> Trace:
    if not Path(word).is_dir():
        raise UserError(f"{key}={word}: no such folder; allowed: the folder of a trace")
    return open_trace(word)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("fit: torch is not installed; allowed: pip install 'moe-offload-workbench[hf]'") from None
