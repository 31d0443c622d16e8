"""ProMoE's predictors (arXiv 2410.22134, section 4): one MLP per layer, from its gate's input to a later gate's output.

The paper: two layers, about 2 M parameters at hidden states of 2,048 and more, trained offline on traces divided nine
to one, emitting exactly top-K. Here the width is a setting, and the loss is the cross-entropy to the scores of the
later gate (``target=probs``) or to the experts that it chose (``target=chosen``); the paper names no loss.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any

from policies.predictors import mlp
from policies.predictors.examples import Examples
from policies.predictors.fitter import FitOptions, Fitter, Layer
from policies.promoe.policy import fitted_name
from traces.kit.words import Between


@dataclass(frozen=True, kw_only=True)
class Options(mlp.Settings, FitOptions):
    """Fits one MLP of two layers per layer of the model, on the train requests of a
    trace; a tenth of their prompts is held out to end the fit. Test requests are
    never read, and train requests with a test request's prompt are left out. Needs
    torch. Progress goes to stderr; FILE.timing.json says how long it took: some 4
    minutes of one quiet core for 100,000 tokens of the reference model's shape (14
    predictors, 128 inputs, 64 experts, 40 epochs). To apply it takes seconds.
    """

    stride: Annotated[
        int, Between(1, 65535), "layers from the gate whose input is read to the gate that is foretold"
    ] = 2


class ProMoEFitter(Fitter):
    """Perceptrons of two layers."""

    options, layer, packages = Options, mlp.MLP, ("torch",)

    def called(self, source: str, stride: int) -> str:
        return fitted_name(source, stride)

    def steady(self, options: Options) -> AbstractContextManager[None]:
        return mlp.steady(options.threads)

    def learn(self, examples: Examples, held: Examples, options: Options) -> tuple[Layer, Mapping[str, Any]]:
        found, epochs, loss = mlp.fit(examples, held, options)
        return found, {"epochs": epochs, "held_out_loss_nats": round(loss, 6), "parameters": found.parameters}
