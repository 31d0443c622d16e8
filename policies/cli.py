"""The program ``python -m policies``: fit predictors before a run, and write what they say beside a trace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from policies.predictors.fitter import FitOptions, Fitter, Name, Overwrite, fitter_of, fitters
from traces.format.reader import Trace, open_trace
from traces.kit.command import Choice, Command, Program
from traces.kit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """Writes predicted/NAME/ into the folder of a trace of the model that the
    predictor was fitted on: the experts that it names for every token and layer, so
    that python -m sim run policy=NAME trace=DIR needs numpy only.
    """

    predictor: Annotated[Path, "what python -m policies fit wrote"]
    trace: Annotated[str, "the folder of a trace with the predictor's inputs"]
    beside: Annotated[
        str, "the folder of another trace of the same tokens and experts, to write beside that one instead"
    ] = ""
    name: Name = ""
    overwrite: Overwrite = False


def _fit(fitter: Fitter, options: FitOptions) -> None:
    from policies.predictors import fitting
    from traces.writing.predicted import refuse_existing

    trace = _open("trace", options.trace)
    others = [_open("apply", word) for word in dict.fromkeys(options.apply.split(",")) if word]
    name = options.name or fitter.called(options.input, options.stride)
    for other in others:
        refuse_existing(other, name, overwrite=options.overwrite)
    fitted = fitting.fit(fitter, options, trace, others)
    for other in others:
        fitting.apply(fitter, fitted, other, name=name, overwrite=options.overwrite)


def _apply(fitter: Fitter, options: ApplyOptions) -> None:
    from policies.predictors import fitting, saved

    fitted, trace = saved.load(options.predictor), _open("trace", options.trace)
    beside = _open("beside", options.beside) if options.beside else None
    fitting.apply(fitter, fitted, trace, beside=beside, name=options.name, overwrite=options.overwrite)


def _open(key: str, word: str) -> Trace:
    if not Path(word).is_dir():
        raise UserError(f"{key}={word}: no such folder; allowed: the folder of a trace")
    return open_trace(word)


def _fit_of(kind: str) -> Command:
    fitter = fitter_of(kind, f"fit {kind}")
    return Command(fitter.options, partial(_fit, fitter))


def _apply_of(kind: str) -> Command:
    return Command(ApplyOptions, partial(_apply, fitter_of(kind, f"apply {kind}")))


def _each(make: Callable[[str], Command]) -> Mapping[str, Callable[[], Command]]:
    """By the policies whose predictors are fitted."""
    return {kind: partial(make, kind) for kind in fitters()}


FIT = Choice("PREDICTOR", "Fits predictors on the train requests of a trace.\n", partial(_each, _fit_of))
APPLY = Choice("PREDICTOR", "Writes what fitted predictors say beside a trace.\n", partial(_each, _apply_of))
PROGRAM = Program(
    "policies",
    "Fits what policies predict with.\n",
    {
        "fit": ("policies.cli:FIT", "fit the predictors of a policy, such as promoe, on train requests"),
        "apply": ("policies.cli:APPLY", "write what they say beside a trace"),
    },
)
main = PROGRAM.main
