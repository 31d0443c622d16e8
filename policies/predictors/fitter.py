"""How the predictors of a policy are fitted: what it declares, and the words that a user gives for any of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from policies import registry
from policies.predictors.examples import Examples
from traces.format.predicted import check_name
from traces.kit.errors import UserError, allowing
from traces.kit.words import Between


class Layer(Protocol):
    """What was fitted for one layer: a dataclass of float32 arrays, which are what a file holds of it."""

    @property
    def inputs(self) -> int:
        """Numbers that it reads per token, F."""

    @property
    def experts(self) -> int:
        """Experts among which it chooses, E."""

    def top(self, x: NDArray[np.float16], k: int) -> NDArray[np.intp]:
        """The ``k`` experts that it names for each row of ``x`` [n, F], the likeliest first; [n, k]."""


def _checked(name: str) -> str:
    check_name(name)
    return name


Name = Annotated[
    str, _checked, "under which; by default what the policy looks for: for promoe promoe, then _routing, then _strideN"
]
Overwrite = Annotated[bool, "replace what has that name beside those traces"]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The words of ``python -m policies fit NAME`` that every policy has; a fitter's own class adds its words."""

    trace: Annotated[str, "the folder of a trace with a split, and with hidden states (collect it with signals=all)"]
    out: Annotated[Path, "the predictor's file (safetensors); an existing one is replaced"]
    apply: Annotated[
        str, "folders of traces, comma-separated: write what it says of them, as python -m policies apply does"
    ] = ""
    name: Name = ""
    overwrite: Overwrite = False
    input: Annotated[
        Literal["hidden", "routing"],
        "hidden: what enters the gate; routing: the router's scores of this and all earlier layers, for traces without"
        " hidden states",
    ] = "hidden"
    stride: Annotated[
        int, Between(1, 65535), "layers from the gate whose input is read to the gate that is foretold"
    ] = 1
    top_k: Annotated[int, Between(0, 65534), "experts named per token; 0: as many as the model chooses"] = 0
    target: Annotated[
        Literal["probs", "chosen"],
        "probs: learn the later router's scores; chosen: the experts that it chose (where a bias or groups decide,"
        " these are not those of the highest scores; all that a trace without router_probs has)",
    ] = "probs"
    tokens: Annotated[int, Between(1, 2**31), "of more train tokens, draw so many"] = 200_000
    seed: Annotated[int, Between(0, 2**32 - 1), "of the division, the weights and the order"] = 0
    threads: Annotated[
        int, Between(1, 1024), "of the CPU; with 1 the same command gives the same bytes on one machine"
    ] = 1


OF_A_RUN = frozenset({"trace", "out", "apply", "name", "overwrite", "input", "stride", "top_k"})
"""Words that do not say how to learn, or stand in a file under a name of their own."""


class Fitter(ABC):
    """One layer's predictor after the other, from what its gate is given to what a later gate says.

    Named by :attr:`policies.api.Policy.fitter`. It never sees a test request: see :mod:`policies.predictors.examples`.
    """

    options: ClassVar[type[FitOptions]] = FitOptions
    """Its words (see :mod:`traces.kit.words`); the docstring is what ``--help`` says of it."""
    layer: ClassVar[type[Layer]]
    packages: ClassVar[tuple[str, ...]] = ()
    """What it cannot learn without, beside numpy."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """Name of the policy, and of what is fitted for it."""

    def called(self, source: str, stride: int) -> str:
        """The name under which the policy looks for what was said of a trace, unless a user gives another."""
        return self.kind

    def steady(self, options: Any) -> AbstractContextManager[None]:
        """While this lasts, the same options and examples give the same bytes."""
        return nullcontext()

    @abstractmethod
    def learn(self, examples: Examples, held: Examples, options: Any) -> tuple[Layer, Mapping[str, Any]]:
        """The predictor of one layer, and what there is to tell of it as plain JSON.

        ``held``: examples of other prompts, to stop by. UserError where nothing can be learned.
        """

    def versions(self) -> dict[str, str]:
        """Of what it needs. UserError for what is not installed."""
        found = {}
        for package in (*self.packages, "numpy"):
            try:
                found[package] = str(import_module(package).__version__)
            except ImportError:
                raise UserError(
                    f"fit {self.kind}: {package} is not installed; allowed: an environment with it, such as"
                    " pip install 'moe-offload-workbench[hf]'"
                ) from None
        return found


def fitter_of(kind: str, key: str) -> Fitter:
    """The fitter of the policy ``kind``, which was given for ``key``. UserError where there is none."""
    where = fitters().get(kind)
    if where is None:
        raise UserError(f"{key}: no such predictor; {allowing(kind, fitters())}")
    try:
        found = resolve_name(where)
    except Exception as error:  # whatever their module does when it is imported
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"policy={kind}: fitter={where} cannot be loaded ({why}); allowed: MODULE:CLASS") from error
    if not (isinstance(found, type) and issubclass(found, Fitter)):
        raise UserError(f"policy={kind}: fitter={where}; allowed: a class of policies.predictors.fitter.Fitter")
    return found(kind)


def fitters() -> dict[str, str]:
    """The policies whose predictors are fitted, each with the place of its fitter."""
    return {name: where for name in registry.names() if (where := registry.find(name).fitter)}
