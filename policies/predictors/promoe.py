"""ProMoE's predictors (arXiv 2410.22134, section 4): one MLP per layer, from its gate's input to a later gate's output.

The paper: two layers, about 2 M parameters at hidden states of 2,048 and more, trained offline on traces divided nine
to one, emitting exactly top-K. Here the width is a setting, and the loss is the cross-entropy to the scores of the
later gate (``target=probs``) or to the experts that it chose (``target=chosen``); the paper names no loss.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from policies.predictors import mlp
from policies.predictors.examples import (
    Input,
    Target,
    divide,
    features,
    measured_keys,
    rows_of,
    seen,
    targets,
    width,
)
from policies.predictors.mlp import Settings
from policies.predictors.saved import Fitted, check_target, save
from policies.promoe import fitted_name
from traces import Trace
from traces.format.mapped import row_chunks
from traces.format.predicted import Predicted
from traces.kit.errors import UserError
from traces.writing.predicted import write_predicted

KIND = "promoe"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fit; ``tokens``: of more train tokens, so many are drawn."""

    source: Input
    target: Target
    stride: int
    top_k: int
    tokens: int
    threads: int
    settings: Settings


def fit(trace: Trace, out: Path, plan: Plan, others: Sequence[Trace] = ()) -> Fitted:
    """Fit on the train requests of ``trace`` and write ``out``.

    ``others``: traces that it will be applied to, whose test prompts it must not have seen. UserError.
    """
    if not 1 <= plan.stride < trace.L:
        raise UserError(f"stride={plan.stride}: allowed: 1 to {trace.L - 1} (layers)")
    if not 1 <= plan.top_k <= trace.E:
        raise UserError(f"top_k={plan.top_k}: allowed: 1 to {trace.E} (experts)")
    check_target(out)
    for layer in range(trace.L - plan.stride):
        wide = width(trace, layer, plan.source)
        for other in others:
            _check_model(_model_of(trace), other)
            _check_width(other, layer, plan.source, wide)
    began = time.perf_counter()
    division = divide(trace, others, plan.settings.seed)
    if division.left_out:
        _say(f"{division.left_out} train requests are left out: their prompts are test prompts")
    rows = rows_of(trace, division.fitted, plan.tokens, plan.settings.seed)
    held = rows_of(trace, division.held, plan.tokens, plan.settings.seed)
    layers, epochs, losses = [], [], []
    with mlp.steady(plan.threads):
        for layer in range(trace.L - plan.stride):
            to_fit, to_stop = (_examples(trace, r, layer, plan) for r in (rows, held))
            found, run, loss = mlp.fit(to_fit, to_stop, plan.settings)
            layers.append(found)
            epochs.append(run)
            losses.append(round(loss, 6))
            so_far = time.perf_counter() - began
            _say(f"layer {layer}: {run} epochs, held-out loss {loss:.4f} nats, {so_far:.0f} s so far")
    settings = {**asdict(plan.settings), "target": plan.target, "tokens": plan.tokens, "threads": plan.threads}
    facts = {
        "trace": {
            "model": trace.manifest.model.name,
            "sha256": trace.sha256,
            "decoding": trace.manifest.decoding["mode"],
        },
        "requests": {"fitted": len(division.fitted), "held_out": len(division.held), "left_out": division.left_out},
        "tokens": {"fitted": len(rows), "held_out": len(held)},
        "prompts_known": division.prompts is not None,
        "settings": settings,
        "epochs": epochs,
        "held_out_loss_nats": losses,
        "parameters": [found.parameters for found in layers],
        "versions": _versions(),
    }
    about = {
        "kind": KIND,
        "input": plan.source,
        "stride": plan.stride,
        "top_k": plan.top_k,
        **_model_of(trace),
        "prompts": None if division.prompts is None else list(division.prompts),
        "fit": facts,
    }
    spent = round(time.perf_counter() - began, 1)
    _say(f"fitted in {spent} s: {out}")
    return save(Fitted(about, tuple(layers), {"fit_s": spent, "threads": plan.threads}), out)


def apply(
    fitted: Fitted,
    trace: Trace,
    *,
    name: str | None = None,
    beside: Trace | None = None,
    overwrite: bool = False,
) -> Predicted:
    """Write what the predictor says of every row of ``trace`` beside it, or beside its twin. UserError.

    ``beside``: a trace of the same run with fewer signals: the same tokens, and the same experts.
    """
    about, home = fitted.about, trace if beside is None else beside
    if about["kind"] != KIND:
        raise UserError(f"apply promoe: the predictor is of the kind {about['kind']}; allowed: {KIND}")
    _check_model(about, trace)
    for layer, found in enumerate(fitted.layers):
        _check_width(trace, layer, about["input"], len(found.mean))
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
    written = write_predicted(
        home,
        _outputs(fitted, trace),
        name=name or fitted_name(about["input"], about["stride"]),
        kind=about["kind"],
        input=about["input"],
        stride=about["stride"],
        top_k=about["top_k"],
        fit={
            "weights_sha256": fitted.sha256,
            **about["fit"],
            **({"applied_to": trace.sha256} if beside else {}),
            **({"test_prompts_unknown": True} if unknown else {}),
        },
        timing=fitted.timing,
        overwrite=overwrite,
    )
    shares = {split: _mean(layers) for split, layers in written.about.accuracy.items()}
    said = ", ".join(f"{split} {100 * share:.1f}" for split, share in shares.items() if share is not None)
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


def _examples(trace: Trace, rows: Any, layer: int, plan: Plan) -> mlp.Examples:
    known = seen(trace, rows, layer, layer + plan.stride)
    if not len(known):
        raise UserError(f"trace={trace.path}: no train token saw the layers {layer} and {layer + plan.stride}")
    x = features(trace, known, layer, plan.source)
    return mlp.Examples(x, targets(trace, known, layer + plan.stride, plan.target))


def _outputs(fitted: Fitted, trace: Trace) -> Iterator[Any]:
    about = fitted.about
    for rows in row_chunks(trace.N, 64 * trace.L * trace.E):
        block = np.full((rows.stop - rows.start, trace.L, about["top_k"]), trace.absent, np.uint16)
        for layer, found in enumerate(fitted.layers):
            here = np.asarray(trace.expert_ids[rows, layer, 0]) != trace.absent
            said = found.top(features(trace, rows, layer, cast(Input, about["input"])), about["top_k"])
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


def _check_width(trace: Trace, layer: int, source: Input, ours: int) -> None:
    if (wide := width(trace, layer, source)) != ours:
        raise UserError(
            f"trace={trace.path}: gives layer {layer} {wide} numbers of {source}; allowed: {ours}, as the predictor was"
            " fitted"
        )


def _mean(shares: tuple[float | None, ...] | None) -> float | None:
    known = [share for share in shares or () if share is not None]
    return sum(known) / len(known) if known else None


def _versions() -> dict[str, str]:
    import torch

    return {"torch": str(torch.__version__), "numpy": np.__version__}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
