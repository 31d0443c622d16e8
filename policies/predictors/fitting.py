"""Fit the predictors of a policy on the train requests of a trace, and write what they say beside traces."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np

from policies.predictors.examples import (
    Examples,
    divide,
    features,
    measured_keys,
    modelled,
    rows_of,
    seen,
    targets,
    width,
)
from policies.predictors.fitter import OF_A_RUN, FitOptions, Fitter, Name, Overwrite, fitter_of, fitters
from policies.predictors.saved import Fitted, check_target, load, save
from traces import Trace, open_trace
from traces.format.npy import row_chunks
from traces.format.predicted import Predicted
from traces.kit.command import Choice, Command
from traces.kit.errors import UserError, one_of
from traces.writing.predicted import refuse_existing, write_predicted


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


def fit(fitter: Fitter, options: FitOptions, trace: Trace, others: Sequence[Trace] = ()) -> Fitted:
    """Fit on the train requests of ``trace`` and write ``options.out``.

    ``others``: traces that it will be applied to, whose test prompts it must not have seen. UserError.
    """
    began, out, top_k, layers = time.perf_counter(), options.out, options.top_k or trace.K, range(trace.L)
    versions = fitter.versions()
    if not 1 <= options.stride < trace.L:
        raise UserError(f"stride={options.stride}: allowed: 1 to {trace.L - 1} (layers)")
    if not 1 <= top_k <= trace.E:
        raise UserError(f"top_k={top_k}: allowed: 1 to {trace.E} (experts)")
    check_target(out)
    for layer in layers[: -options.stride]:
        wide = width(trace, layer, options.input)
        for other in others:
            _check_model(_model_of(trace), other)
            _check_width(other, layer, options.input, wide)
    division = divide(trace, others, options.seed)
    if division.left_out:
        _say(f"{division.left_out} train requests are left out: their prompts are test prompts")
    if made_up := modelled(trace, options.input, options.target):
        _say(f"what it learns from is modelled, not recorded: {one_of(made_up)}")
    rows, held = (rows_of(trace, of, options.tokens, options.seed) for of in (division.fitted, division.held))
    fitted, told = [], []
    with fitter.steady(options):
        for layer in layers[: -options.stride]:
            to_fit, to_stop = (_examples(trace, of, layer, options) for of in (rows, held))
            found, facts = fitter.learn(to_fit, to_stop, options)
            fitted.append(found)
            told.append(facts)
            spent = time.perf_counter() - began
            _say(f"layer {layer}: {', '.join(f'{key} {value}' for key, value in facts.items())}; {spent:.0f} s so far")
    about = {
        "kind": fitter.kind,
        "input": options.input,
        "stride": options.stride,
        "top_k": top_k,
        **_model_of(trace),
        "prompts": None if division.prompts is None else list(division.prompts),
        "fit": {
            "trace": {
                "model": trace.manifest.model.name,
                "sha256": trace.sha256,
                "decoding": trace.manifest.decoding["mode"],
            },
            "requests": {"fitted": len(division.fitted), "held_out": len(division.held), "left_out": division.left_out},
            "tokens": {"fitted": len(rows), "held_out": len(held)},
            "prompts_known": division.prompts is not None,
            "settings": {key: value for key, value in asdict(options).items() if key not in OF_A_RUN},
            **({"modelled": made_up} if made_up else {}),
            **{key: [facts[key] for facts in told] for key in told[0]},
            "versions": versions,
        },
    }
    spent = round(time.perf_counter() - began, 1)
    _say(f"fitted in {spent} s: {out}")
    return save(Fitted(about, tuple(fitted), {"fit_s": spent, "threads": options.threads}), out)


def apply(
    fitter: Fitter,
    fitted: Fitted,
    trace: Trace,
    *,
    name: str = "",
    beside: Trace | None = None,
    overwrite: bool = False,
) -> Predicted:
    """Write what the predictor says of every row of ``trace`` beside it, or beside its twin. UserError.

    ``beside``: a trace of the same run with fewer signals: the same tokens, and the same experts.
    """
    about, home = fitted.about, trace if beside is None else beside
    if about["kind"] != fitter.kind:
        raise UserError(f"apply {fitter.kind}: the predictor is of the kind {about['kind']}; allowed: {fitter.kind}")
    _check_model(about, trace)
    for layer, found in enumerate(fitted.layers):
        _check_width(trace, layer, about["input"], found.inputs)
    if beside is not None:
        check_twins(trace, beside)
    measured = set(measured_keys(trace))  # of a twin, the same
    if leaked := measured.intersection(about["prompts"] or ()):
        raise UserError(
            f"trace={home.path}: {len(leaked)} of its test prompts are among those that the predictor learned from;"
            " allowed: the same split, or fit with apply= of this trace, which leaves them out"
        )
    unknown = about["prompts"] is None or None in measured
    if unknown:
        _say(f"{home.path}: not all prompts were recorded, so that it cannot be said whether test prompts were learned")
    # What a twin is given lies in no trace that a run reads; what it learned from, neither.
    given = modelled(trace, about["input"]) if beside is not None else {}
    made_up = {**given, **about["fit"].get("modelled", {})}
    if made_up:
        _say(f"{home.path}: what it says rests on what is modelled, not recorded: {one_of(made_up)}")
    written = write_predicted(
        home,
        _outputs(fitted, trace),
        name=name or fitter.called(about["input"], about["stride"]),
        kind=about["kind"],
        input=about["input"],
        stride=about["stride"],
        top_k=about["top_k"],
        fit={
            "weights_sha256": fitted.sha256,
            **about["fit"],
            **({"modelled": made_up} if made_up else {}),
            **({"applied_to": trace.sha256} if beside else {}),
            **({"test_prompts_unknown": True} if unknown else {}),
        },
        timing=fitted.timing,
        overwrite=overwrite,
    )
    known = {split: [x for x in layers or () if x is not None] for split, layers in written.about.accuracy.items()}
    said = ", ".join(f"{split} {100 * fmean(shares):.1f}" for split, shares in known.items() if shares)
    _say(f"wrote {home.path / 'predicted' / written.about.name}: accuracy in %, mean over layers: {said or 'unknown'}")
    return written


def check_twins(one: Trace, other: Trace) -> None:
    """Refuse traces that are not of the same tokens and the same routing."""
    alike = (one.N, one.L, one.E, one.K) == (other.N, other.L, other.E, other.K)
    alike = alike and one.requests == other.requests and np.array_equal(one.steps, other.steps)
    for name in ("token_ids", "expert_ids"):
        left, right = getattr(one, name), getattr(other, name)
        alike = alike and left is not None and right is not None
        chunks = row_chunks(one.N, 8 * one.L * one.K)
        if not (alike and all(np.array_equal(left[rows], right[rows]) for rows in chunks)):
            raise UserError(
                f"beside={other.path}: differs from trace={one.path} in its requests, steps or {name}; allowed: a trace"
                " with the same tokens and experts"
            )


def _examples(trace: Trace, rows: Any, layer: int, options: FitOptions) -> Examples:
    later = layer + options.stride
    known = seen(trace, rows, layer, later)
    if not len(known):
        raise UserError(f"trace={trace.path}: no train token saw the layers {layer} and {later}")
    return Examples(features(trace, known, layer, options.input), targets(trace, known, later, options.target))


def _outputs(fitted: Fitted, trace: Trace) -> Iterator[Any]:
    about = fitted.about
    for rows in row_chunks(trace.N, 64 * trace.L * trace.E):
        block = np.full((rows.stop - rows.start, trace.L, about["top_k"]), trace.absent, np.uint16)
        for layer, found in enumerate(fitted.layers):
            here = np.asarray(trace.expert_ids[rows, layer, 0]) != trace.absent
            said = found.top(features(trace, rows, layer, about["input"]), about["top_k"])
            block[:, layer] = np.where(here[:, None], said, trace.absent)
        yield block


def _model_of(trace: Trace) -> dict[str, Any]:
    model = trace.manifest.model
    return {"layers": trace.L, "experts": trace.E, "model": [model.name, model.revision]}


def _check_model(about: Mapping[str, Any], trace: Trace) -> None:
    its = _model_of(trace)
    if any(about[key] != its[key] for key in its):
        words = ["{layers} layers, {experts} experts, {model[0]} {model[1]}".format(**of) for of in (its, about)]
        raise UserError(
            f"trace={trace.path}: is of {words[0]}; the predictor was fitted on {words[1]}; allowed: the same model"
        )


def _check_width(trace: Trace, layer: int, source: str, ours: int) -> None:
    if (wide := width(trace, layer, source)) != ours:
        raise UserError(
            f"trace={trace.path}: gives layer {layer} {wide} numbers of {source}; allowed: {ours}, as the predictor was"
            " fitted"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fit(fitter: Fitter, options: FitOptions) -> None:
    trace = _open("trace", options.trace)
    others = [_open("apply", word) for word in dict.fromkeys(options.apply.split(",")) if word]
    name = options.name or fitter.called(options.input, options.stride)
    for other in others:
        refuse_existing(other, name, overwrite=options.overwrite)
    fitted = fit(fitter, options, trace, others)
    for other in others:
        apply(fitter, fitted, other, name=name, overwrite=options.overwrite)


def _apply(fitter: Fitter, options: ApplyOptions) -> None:
    fitted, trace = load(options.predictor), _open("trace", options.trace)
    beside = _open("beside", options.beside) if options.beside else None
    apply(fitter, fitted, trace, beside=beside, name=options.name, overwrite=options.overwrite)


def _open(key: str, word: str) -> Trace:
    if not Path(word).is_dir():
        raise UserError(f"{key}={word}: no such folder; allowed: the folder of a trace")
    return open_trace(word)


def _choice(verb: str, about: str, run: Callable[[Fitter, Any], None], words: type | None = None) -> Choice:
    """Of the policies whose predictors are fitted; ``words``: by default those of the fitter."""

    def make(kind: str) -> Command:
        fitter = fitter_of(kind, f"{verb} {kind}")
        return Command(words or fitter.options, partial(run, fitter))

    return Choice("PREDICTOR", about, lambda: {kind: partial(make, kind) for kind in fitters()})


FIT = _choice("fit", "Fits predictors on the train requests of a trace.\n", _fit)
APPLY = _choice("apply", "Writes what fitted predictors say beside a trace.\n", _apply, ApplyOptions)
