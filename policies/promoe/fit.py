"""ProMoE's predictors (arXiv 2410.22134, section 4): one MLP per layer, from its gate's input to a later gate's output.

The paper: two layers, about 2 M parameters at hidden states of 2,048 and more, trained offline on traces divided nine
to one, emitting exactly top-K. Here the width is a setting, and the loss is the cross-entropy to the scores of the
later gate (``target=probs``) or to the experts that it chose (``target=chosen``); the paper names no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from policies.predictors import mlp
from policies.predictors.examples import Examples
from policies.predictors.fitter import FitOptions, Fitter, Layer
from policies.promoe.policy import fitted_name
from traces.kit.options import Ranges

TEXT = """\
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


@dataclass(frozen=True)
class Options(mlp.Settings, FitOptions):
    """Of the perceptrons, too."""

    RANGES: ClassVar[Ranges] = {**FitOptions.RANGES, **mlp.Settings.RANGES}
    stride: int = 2


class ProMoEFitter(Fitter):
    """Perceptrons of two layers."""

    options, text, layer, packages = Options, TEXT, mlp.MLP, ("torch",)

    def called(self, source: str, stride: int) -> str:
        return fitted_name(source, stride)

    def steady(self, options: Options) -> AbstractContextManager[None]:
        return mlp.steady(options.threads)

    def learn(self, examples: Examples, held: Examples, options: Options) -> tuple[Layer, Mapping[str, Any]]:
        found, epochs, loss = mlp.fit(examples, held, options)
        return found, {"epochs": epochs, "held_out_loss_nats": round(loss, 6), "parameters": found.parameters}
