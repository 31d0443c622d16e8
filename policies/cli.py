"""The program ``python -m policies``: fit predictors before a run, and write what they say beside a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from traces.format.predicted import check_name
from traces.format.reader import Trace, open_trace
from traces.kit.command import Choice, Command, Program
from traces.kit.errors import UserError
from traces.kit.words import Between


def _name(value: str) -> str:
    check_name(value)
    return value


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Fits one MLP of two layers per layer of the model, on the train requests of a
    trace; a tenth of their prompts is held out to end the fit. Test requests are
    never read, and train requests with a test request's prompt are left out. Needs
    torch. Progress goes to stderr; FILE.timing.json says how long it took: some 4
    minutes of one quiet core for 100,000 tokens of the reference model's shape (14
    predictors, 128 inputs, 64 experts, 40 epochs). To apply it takes seconds.
    """

    trace: Annotated[str, "the folder of a trace with a split, and with hidden states (collect it with signals=all)"]
    out: Annotated[Path, "the predictor's file (safetensors); an existing one is replaced"]
    apply: Annotated[
        str, "folders of traces, comma-separated: write what it says of them, as python -m policies apply does"
    ] = ""
    name: Annotated[str, _name, "under which; by default promoe, then _routing, then _strideN unless it is 2"] = ""
    overwrite: Annotated[bool, "replace what has that name beside those traces"] = False
    input: Annotated[
        Literal["hidden", "routing"],
        "hidden: what enters the gate; routing: the router's scores of this and all earlier layers, for traces without"
        " hidden states",
    ] = "hidden"
    stride: Annotated[
        int, Between(1, 65535), "layers from the gate whose input is read to the gate that is foretold"
    ] = 2
    top_k: Annotated[int, Between(0, 65534), "experts named per token; 0: as many as the model chooses"] = 0
    target: Annotated[
        Literal["probs", "chosen"],
        "probs: learn the later router's scores; chosen: the experts that it chose (where a bias or groups decide,"
        " these are not those of the highest scores; all that a trace without router_probs has)",
    ] = "probs"
    hidden: Annotated[
        int,
        Between(1, 65536),
        "units of the inner layer (the paper has about 2 M parameters: some 1,000 at 2,048 inputs)",
    ] = 256
    epochs: Annotated[int, Between(1, 10_000), "at most"] = 40
    patience: Annotated[int, Between(1, 10_000), "epochs without a lower held-out loss that end the fit"] = 5
    batch: Annotated[int, Between(1, 2**20), "tokens per step"] = 256
    rate: Annotated[float, Between(1e-9, 10), "of AdamW"] = 1e-3
    decay: Annotated[float, Between(0, 100), "of AdamW"] = 0.01
    tokens: Annotated[int, Between(1, 2**31), "of more train tokens, draw so many"] = 200_000
    seed: Annotated[int, Between(0, 2**32 - 1), "of the division, the weights and the order"] = 0
    threads: Annotated[
        int, Between(1, 1024), "of the CPU; with 1 the same command gives the same bytes on one machine"
    ] = 1


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """Writes predicted/NAME/ into the folder of a trace of the model that the
    predictor was fitted on: the experts that it names for every token and layer, so
    that python -m sim run policy=promoe trace=DIR needs numpy only.
    """

    predictor: Annotated[Path, "what python -m policies fit wrote"]
    trace: Annotated[str, "the folder of a trace with the predictor's inputs"]
    beside: Annotated[
        str, "the folder of another trace of the same tokens and experts, to write beside that one instead"
    ] = ""
    name: Annotated[str, _name, "by default promoe, then _routing, then _strideN unless it is 2"] = ""
    overwrite: Annotated[bool, "replace what has that name"] = False


def _fit(options: FitOptions) -> None:
    from policies.predictors import promoe
    from policies.predictors.mlp import Settings
    from policies.promoe import fitted_name
    from traces.writing.predicted import refuse_existing

    trace = _open("trace", options.trace)
    others = [_open("apply", word) for word in dict.fromkeys(options.apply.split(",")) if word]
    name = options.name or fitted_name(options.input, options.stride)
    for other in others:
        refuse_existing(other, name, overwrite=options.overwrite)
    _need_torch()
    settings = {key: getattr(options, key) for key in Settings.__dataclass_fields__}
    plan = promoe.Plan(
        options.input,
        options.target,
        options.stride,
        options.top_k or trace.K,
        options.tokens,
        options.threads,
        Settings(**settings),
    )
    fitted = promoe.fit(trace, options.out, plan, others)
    for other in others:
        promoe.apply(fitted, other, name=name, overwrite=options.overwrite)


def _apply(options: ApplyOptions) -> None:
    from policies.predictors import promoe, saved

    fitted = saved.load(options.predictor)
    trace = _open("trace", options.trace)
    beside = _open("beside", options.beside) if options.beside else None
    promoe.apply(fitted, trace, beside=beside, name=options.name or None, overwrite=options.overwrite)


def _open(key: str, word: str) -> Trace:
    if not Path(word).is_dir():
        raise UserError(f"{key}={word}: no such folder; allowed: the folder of a trace")
    return open_trace(word)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("fit: torch is not installed; allowed: pip install 'moe-offload-workbench[hf]'") from None


FIT = Choice("PREDICTOR", "", lambda: {"promoe": Command.of(_fit)})
APPLY = Choice("PREDICTOR", "", lambda: {"promoe": Command.of(_apply)})
PROGRAM = Program(
    "policies",
    "Fits what policies predict with.\n",
    {
        "fit": ("policies.cli:FIT", "fit predictors on train requests"),
        "apply": ("policies.cli:APPLY", "write what they say beside a trace"),
    },
)
main = PROGRAM.main
