"""What a policy sees and what it may do (DESIGN sections 3-5).

An expert is named by one integer, its *flat number* ``layer * E + index``. A policy is told facts through its
``on_*`` methods, in time order; it reads the machine through :class:`View`, the model's outputs through
:class:`Signals`, and acts through :class:`Actions`. It has no clock, no trace and no future: what it decides is
a pure function of the facts that it was told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
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

    def hidden(self) -> NDArray[np.float16]:
        """Hidden state entering the current layer's gate, float16 [rows, D']."""


class Costs(Protocol):
    """Profiled costs of the machine, in whole nanoseconds."""

    launch_ns: int

    def copy_ns(self, nbytes: int) -> int:
        """One copy call of ``nbytes`` from host to device."""

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert on ``tokens`` tokens, without its launch."""


@dataclass(frozen=True, slots=True)
class View:
    """The machine's state, read-only. Experts are flat numbers."""

    resident: Callable[[int], bool]
    """Whether the expert has a slot."""
    complete: Callable[[int], bool]
    """Whether all of its bytes are on the GPU."""
    chunks_done: Callable[[int], int]
    """Chunks of it that are on the GPU."""
    evictable: Callable[[int], bool]
    """Whether it has a slot, is not pinned, and no chunk of it is on the link."""
    loading: Callable[[int], bool]
    """Whether a load of it is queued or under way."""
    free_bytes: Callable[[], int]
    """Bytes of the budget without an owner."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What a policy may ask for. Nothing here takes effect in the past."""

    prefetch: Callable[[int, float], bool]
    """``prefetch(expert, priority)``: queue a speculative load; higher goes first, a second call moves it. False if
    there is no need."""
    cancel: Callable[[int], bool]
    """``cancel(expert)``: drop a speculative load that is not complete. The chunk on the link still finishes; a load
    that is complete with it stays."""
    expect: Callable[[Iterable[int]], None]
    """``expect(experts)``: declare a prediction, for the recall account: for this step where the layer's gate is still
    to come, else for the next step. Drop what was predicted for a layer that has been passed."""
    predict: Callable[[int, int, bool], None]
    """``predict(tag, latency_ns, blocking)``: ``on_prediction(tag)`` comes after the latency, on the predictor's
    thread, or on the GPU stream if ``blocking`` (only from ``on_step`` and ``on_gate``)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a policy knows before the first step: shapes, sizes, costs. All sizes in bytes."""

    n_layers: int
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...]
    """Bytes of one expert, per layer [L]."""
    chunks: int
    """Copy calls per expert."""
    budget: int
    costs: Costs
    seed: int = 0

    def layer_of(self, expert: int) -> int:
        """Layer of a flat expert number."""
        return expert // self.n_experts

    def layer_budgets(self, budget: int | None = None) -> list[int]:
        """Share the budget evenly over layers in whole experts, [L] bytes; remainders go to the lowest layers."""
        left = self.budget if budget is None else budget
        shares = [0] * self.n_layers
        for _ in range(self.n_experts):
            before = left
            for layer, size in enumerate(self.expert_bytes):
                if size <= left:
                    shares[layer] += size
                    left -= size
            if left == before:
                break
        return shares


class History(Protocol):
    """The train requests of the trace: all that a policy may learn from before it is measured."""

    def popularity(self) -> NDArray[np.int64]:
        """Lookups of every expert, int64 [L * E], by flat number: each layer event counts an expert once."""


@dataclass(slots=True)
class Step:
    """One forward pass that is about to begin. Valid during the call only."""

    number: int
    prefill: bool
    rows: int
    requests: Sequence[int]
    signals: Signals


@dataclass(slots=True)
class LayerEvent:
    """One (step, layer) whose gate has just run. Valid during the call only.

    ``demand``: flat numbers of the experts demanded, in token order (the last token's experts last); ``tokens``:
    tokens per expert, aligned with it.
    """

    layer: int
    prefill: bool
    demand: Sequence[int]
    tokens: Sequence[int]
    signals: Signals


class Policy(ABC):
    """A policy: its parameters are the keyword arguments of ``__init__``, its docstring the idea and the source."""

    name: ClassVar[str]
    lossless: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset()
    learns: ClassVar[bool] = False
    """Whether :meth:`fit` wants the train requests."""
    clairvoyant: ClassVar[bool] = False

    view: View
    actions: Actions

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def needs(self) -> frozenset[Signal]:
        """The signals that it reads, with its parameters as they are."""
        return self.signals

    def attach(self, view: View, actions: Actions) -> None:
        """Receive the machine. Called once, before the first fact."""
        self.view, self.actions = view, actions

    def min_budget(self) -> int:
        """Smallest budget in bytes that this policy can work with, what it keeps itself included."""
        return self.gpu_bytes() + max(self.setup.expert_bytes)

    def gpu_bytes(self) -> int:
        """Bytes of the budget that the policy itself keeps on the GPU (tables, staging)."""
        return 0

    def layer_budgets(self) -> Sequence[int] | None:
        """Bytes that each layer may hold, [L]; None for one common pool."""
        return None

    def fit(self, history: History) -> None:  # noqa: B027 - optional
        """Learn from the train requests. Called once, before the first fact, if ``learns``."""

    def on_step(self, step: Step) -> None:  # noqa: B027 - optional
        """A forward pass begins."""

    def on_gate(self, event: LayerEvent) -> None:  # noqa: B027 - optional
        """A gate has run; hits have been classified, demanded experts are pinned, missing ones queued."""

    def on_prediction(self, tag: int) -> None:  # noqa: B027 - optional
        """A prediction that was asked for is done."""

    def on_slot(self, expert: int) -> None:  # noqa: B027 - optional
        """A load has taken its slot: its first chunk starts to copy."""

    def on_complete(self, expert: int) -> None:  # noqa: B027 - optional
        """The last chunk of a load has arrived."""

    def on_evict(self, expert: int) -> None:  # noqa: B027 - optional
        """The expert has lost its slot, whoever decided it."""

    def keep(self, expert: int) -> bool:
        """Whether an expert that has just been computed stays (False: admission is bypassed)."""
        return True

    @abstractmethod
    def victim(self, incoming: int, speculative: bool) -> int | None:
        """Choose an evictable expert to make room for ``incoming``; None: none can, or none should, go.

        A demand load may not be refused while an expert can go: it would never be computed.
        """
