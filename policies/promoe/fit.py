"""ProMoE's predictors (README.md): an MLP per layer, from its gate's input to a later gate's output, fitted with torch.

The paper's 2 M parameters are at hidden states of 2,048 and more. The loss is the cross-entropy to the scores of the
later gate (``target=probs``) or to the experts that it chose (``target=chosen``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from policies.predictors.examples import Examples
from policies.predictors.fitter import FitOptions, Fitter, Layer
from policies.promoe.policy import fitted_name
from traces.kit.errors import UserError
from traces.kit.words import Between

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MLP:
    """Scores of E experts from F numbers: relu(((x - mean) * scale) w1 + b1) w2 + b2, all float32.

    ``mean``, ``scale`` [F], ``w1`` [F, H], ``b1`` [H], ``w2`` [H, E], ``b2`` [E]. ValueError for other shapes.
    """

    mean: Array
    scale: Array
    w1: Array
    b1: Array
    w2: Array
    b2: Array

    def __post_init__(self) -> None:
        f, h, e = len(self.mean), len(self.b1), len(self.b2)
        for name, shape in {"mean": (f,), "scale": (f,), "w1": (f, h), "b1": (h,), "w2": (h, e), "b2": (e,)}.items():
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(f"{name} is of shape {found}; {shape}")

    def scores(self, x: NDArray[np.float16]) -> Array:
        inner = np.maximum(((x.astype(np.float32) - self.mean) * self.scale) @ self.w1 + self.b1, 0)
        return np.asarray(inner @ self.w2 + self.b2, np.float32)

    def top(self, x: NDArray[np.float16], k: int) -> NDArray[np.intp]:
        """The ``k`` experts of the highest scores, the highest first, the lower index among equals; [n, k]."""
        return np.argsort(-self.scores(x), axis=1, kind="stable")[:, :k]

    @property
    def inputs(self) -> int:
        return len(self.mean)

    @property
    def experts(self) -> int:
        return len(self.b2)


@dataclass(frozen=True, kw_only=True)
class Options(FitOptions):
    """Fits one MLP of two layers per layer of the model, on the train requests of a
    trace; a tenth of their prompts is held out to end the fit. Test requests are
    never read, and train requests with a test request's prompt are left out. Needs
    torch. Progress goes to stderr; FILE.timing.json says how long it took: some 4
    minutes of one quiet core for 100,000 tokens of tiny-moe's shape (14
    predictors, 128 inputs, 64 experts, 40 epochs). To apply it takes seconds.
    """

    stride: Annotated[
        int, Between(1, 65535), "layers from the gate whose input is read to the gate that is foretold"
    ] = 2
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


class ProMoEFitter(Fitter):
    """Perceptrons of two layers."""

    options, layer, packages = Options, MLP, ("torch",)

    def called(self, source: str, stride: int) -> str:
        return fitted_name(source, stride)

    @contextmanager
    def steady(self, options: Options) -> Iterator[None]:
        """Torch with so many threads and nothing that may differ from run to run; as it was before, afterwards."""
        import torch

        before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(options.threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])

    def learn(self, examples: Examples, held: Examples, options: Options) -> tuple[Layer, Mapping[str, Any]]:
        """The MLP of the lowest held-out loss. UserError where none is finite.

        AdamW on the soft cross-entropy, the rate falling as a cosine. The same on any run of one machine, with one
        thread.
        """
        import torch

        mean, scale = _moments(examples.x)
        inputs, experts = examples.x.shape[1], examples.y.shape[1]
        draw = torch.Generator().manual_seed(options.seed)
        weights = w1, b1, w2, b2 = [*_linear(inputs, options.hidden, draw), *_linear(options.hidden, experts, draw)]
        centre, spread = torch.from_numpy(mean), torch.from_numpy(scale)
        x, y, x_held, y_held = (torch.from_numpy(a) for a in (examples.x, examples.y, held.x, held.y))

        def loss(inputs: Any, target: Any) -> Any:
            inner = torch.relu(((inputs.float() - centre) * spread) @ w1 + b1)
            return -(target.float() * torch.log_softmax(inner @ w2 + b2, dim=1)).sum(1)

        adam = torch.optim.AdamW(weights, lr=options.rate, weight_decay=options.decay)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.epochs)
        best, kept, since, epoch = float("inf"), [w.detach().clone() for w in weights], 0, 0
        while epoch < options.epochs and since < options.patience:
            for chosen in torch.split(torch.randperm(len(x), generator=draw), options.batch):
                adam.zero_grad()
                loss(x[chosen], y[chosen]).mean().backward()
                adam.step()
            cosine.step()
            epoch, since = epoch + 1, since + 1
            with torch.no_grad():
                parts = zip(torch.split(x_held, 8192), torch.split(y_held, 8192), strict=True)
                total = sum(float(loss(a, b).double().sum()) for a, b in parts) / len(x_held)
            if total < best:
                best, since = total, 0
                kept = [w.detach().clone() for w in weights]
        if best == float("inf"):
            raise UserError(f"rate={options.rate}: the fit diverged, no held-out loss is finite; allowed: a lower rate")
        facts = {"epochs": epoch, "held_out_loss_nats": round(best, 6), "parameters": sum(w.numel() for w in kept)}
        return MLP(mean, scale, *(w.numpy() for w in kept)), facts


def _linear(inputs: int, outputs: int, draw: Any) -> tuple[Any, Any]:
    import torch

    bound = inputs**-0.5
    weight = (torch.rand(inputs, outputs, generator=draw) * 2 - 1) * bound
    return weight.requires_grad_(), torch.zeros(outputs).requires_grad_()


def _moments(x: NDArray[np.float16]) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each column; 1 where a column is constant."""
    total, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for first in range(0, len(x), 8192):
        block = x[first : first + 8192].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(x)
    spread = np.sqrt(np.maximum(squares / len(x) - mean**2, 0))
    scale = np.where(spread > 1e-6, 1 / np.where(spread > 1e-6, spread, 1), 1)
    return mean.astype(np.float32), scale.astype(np.float32)
