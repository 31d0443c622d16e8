"""What is known of a model's run (signals, those of train requests, predictions), and what of it a policy needs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Signal(StrEnum):
    """A model output that a policy may declare it needs; the value is the trace's name for it."""

    WEIGHTS = "expert_weights"
    ROUTER_PROBS = "router_probs"
    GATE_AHEAD = "gate_ahead"
    HIDDEN = "hidden"
    EMBEDDING = "embedding"
    TOKEN_IDS = "token_ids"  # noqa: S105 - a signal, not a secret


class Signals(Protocol):
    """The model's outputs of the current step, up to and including the layer whose gate has just run.

    ``rows`` are the step's real tokens, in token order. Asking for a signal that was not recorded is an error
    that names it; what lies in the future cannot be asked for at all.
    """

    def token_ids(self) -> NDArray[np.int32]:
        """Token ids, int32 [rows]. From the start of the step."""

    def embedding(self) -> NDArray[np.float16]:
        """Output of the embedding layer, float16 [rows, D]. From the start of the step."""

    def expert_ids(self) -> NDArray[np.integer[Any]]:
        """Expert indices chosen in the current layer, [rows, K], by descending weight."""

    def expert_weights(self) -> NDArray[np.float16]:
        """Weights of ``expert_ids``, float16 [rows, K]."""

    def router_probs(self) -> NDArray[np.float16]:
        """The router's scores over all experts of the current layer, float16 [rows, E]."""

    def gate_ahead(self, distance: int) -> NDArray[np.integer[Any]]:
        """Top-K indices that the gate of layer ``l + distance`` gives on the current hidden state, [rows, K]."""

    def pregate(self) -> NDArray[np.integer[Any]]:
        """Expert indices that the next layer will compute, [rows, K], as a pre-gate has chosen them; after the last
        layer all are absent (the dtype's maximum).

        For a policy of a :attr:`Needs.modified` model alone: no trace records it, each answers it.
        """

    def hidden(self) -> NDArray[np.float16]:
        """Hidden state entering the current layer's gate, float16 [rows, D']."""

    def predicted(self, name: str) -> NDArray[np.integer[Any]]:
        """What the predictor of that name says, at the current layer, for the layer its stride names, [rows, K'].

        Expert indices, the likeliest first; the dtype's maximum marks an absent one.
        """


def marks(ids: NDArray[np.integer[Any]], n_experts: int) -> NDArray[np.float16]:
    """1 for each expert that is named in ``ids`` [..., K], 0 for the others, [..., E]; absent ones are none."""
    out = np.zeros((*ids.shape[:-1], n_experts + 1), np.float16)
    np.put_along_axis(out, np.minimum(ids, n_experts).astype(np.intp), np.float16(1), axis=-1)
    return out[..., :-1]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A fitted predictor whose outputs lie beside the trace: at layer ``l`` it speaks of layer ``l + stride``."""

    name: str
    stride: int
    top_k: int  # experts that it names per token
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, and how good it was on held-out requests."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "about", MappingProxyType(dict(self.about)))


@dataclass(frozen=True, slots=True)
class PastRows:
    """Rows of a train request, with the signals of all layers.

    Each callable reads a copy, [rows, L, ...] (``token_ids`` [rows], ``embedding`` [rows, D]; ``gate_ahead``
    [rows, L, A, K]). Asking for one that was not recorded, or that the policy does not declare, is an error that
    names it.
    """

    request: int
    rows: int
    token_ids: Callable[[], NDArray[np.int32]]
    embedding: Callable[[], NDArray[np.float16]]
    expert_ids: Callable[[], NDArray[np.integer[Any]]]
    expert_weights: Callable[[], NDArray[np.float16]]
    router_probs: Callable[[], NDArray[np.float16]]
    gate_ahead: Callable[[], NDArray[np.integer[Any]]]
    hidden: Callable[[], NDArray[np.float16]]


@dataclass(frozen=True, slots=True)
class PastStep(PastRows):
    """One forward pass of a train request."""

    prefill: bool


@dataclass(frozen=True, slots=True)
class PastRequest(PastRows):
    """A train request as a whole, its prompt first, so that a fit needs no loop over passes."""

    prompt_rows: int
    firsts: NDArray[np.int64]
    """The first row of each of its passes."""


class History(Protocol):
    """The train requests of the trace: all that a policy may learn from before it is measured."""

    def popularity(self) -> NDArray[np.int64]:
        """Lookups of every expert, int64 [L * E], by expert number: each layer event counts an expert once."""

    def steps(self) -> Iterator[PastStep]:
        """The forward passes, in order, request by request."""

    def requests(self) -> Iterator[PastRequest]:
        """The same request by request, each whole; in the same order."""


OUTPUTS = ("lossless", "lossy", "modified")
"""What becomes of the model's output: it is its own, it is another, or it is that of a model modified for the policy.
Each is a class of policies, and nobody is ranked outside of his own."""


class Needs:
    """A policy's declarations. A switch is a word of the command line, ``policy.KEY=VALUE``, or several of them."""

    lossless: ClassVar[bool] = True
    """Whether what it computes is what the gates have chosen."""
    modified: ClassVar[bool] = False
    """Whether it wants a model whose gates each choose for the next layer: it may read :meth:`Signals.pregate`."""
    signals: ClassVar[frozenset[Signal]] = frozenset()
    without: ClassVar[Mapping[Signal, str]] = {}
    """The switch that makes it do without a signal, where there is one."""
    ahead: ClassVar[str | int] = ""
    """How many layers ahead it looks, and reads ``gate_ahead`` if it does: a number, or the name of the parameter, kept
    under its name, that says so."""
    fitter: ClassVar[str] = ""
    """Where it is said how its predictors are fitted: ``MODULE:CLASS`` of :class:`policies.predictors.fitter.Fitter`;
    "": it has none. ``python -m policies fit`` finds it there, and nobody else imports it."""
    learns: ClassVar[bool] = False
    """Whether it learns from the train requests; see :meth:`wants_history`."""
    versions: ClassVar[tuple[str, ...]] = ()
    """The parameters of which each names a dtype, one that the model has a size in and that is smaller than its own, in
    which it wants experts as well, or null: a version each (policies.api.Setup.versions), in this order."""
    unlearned: ClassVar[str] = ""
    """The switch that makes it do without train requests, where there is one."""

    @classmethod
    def output(cls) -> str:
        """Its class, one of OUTPUTS."""
        return "modified" if cls.modified else "lossless" if cls.lossless else "lossy"

    def needs(self) -> frozenset[Signal]:
        """The signals that it reads, with its parameters as they are."""
        return self.signals

    def layers_ahead(self) -> int | None:
        """How many layers ahead it looks, with its parameters as they are; None where it does not say."""
        if isinstance(self.ahead, int):
            return self.ahead
        return int(getattr(self, self.ahead)) if self.ahead else None

    def predictors(self) -> frozenset[str]:
        """The fitted predictors that it reads, by name, with its parameters as they are."""
        return frozenset()

    def unfitted(self, recorded: Collection[Signal]) -> Sequence[str]:
        """What there is to do where these were not fitted for a trace of such signals: switches, and commands.

        A user is told the commands, and those of the switches with which nothing is missing.
        """
        return ()

    def memorises(self) -> bool:
        """Whether it keeps what single requests have shown while it is measured, to know those that are alike."""
        return False

    def wants_history(self) -> bool:
        """Whether :meth:`policies.api.Policy.fit` wants the train requests, with its parameters as they are."""
        return self.learns
