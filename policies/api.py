"""What a policy sees and what it may do (docs/design.md).

An expert is named by one integer, its *number* ``layer * E + index``. A policy is told facts through its
``on_*`` methods, in time order; it reads the machine through :class:`View`, the model's outputs through
:class:`Signals`, and acts through :class:`Actions`. It has no clock, no trace and no future: what it decides is
a pure function of the facts that it was told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.answers import Routing as Routing
from policies.answers import Schedule as Schedule
from policies.costs import Costs as Costs
from policies.costs import Host as Host
from policies.hooks import FullOrder as FullOrder
from policies.hooks import Hooks as Hooks
from policies.hooks import Order as Order
from policies.learned import Learned as Learned
from policies.learned import Shapes as Shapes
from policies.setup import Setup as Setup
from policies.signals import OUTPUTS as OUTPUTS
from policies.signals import History as History
from policies.signals import Needs
from policies.signals import PastRequest as PastRequest
from policies.signals import PastStep as PastStep
from policies.signals import Predictor as Predictor
from policies.signals import Signal as Signal
from policies.signals import Signals as Signals

MaskedWeights = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float32]]
"""``weigh(ids, open)``: what a gate gives to the experts ``ids`` [rows, K'] (E: none, of weight 0) where it may choose
among those that are ``open`` [E] alone, by the law of its family: the logits of the others are -inf."""


@dataclass(frozen=True, slots=True)
class View:
    """The machine's state, read-only. Experts are named by their numbers."""

    resident: Callable[[int], bool]  # whether the expert has a slot
    complete: Callable[[int], bool]  # whether all of its bytes are on the GPU
    chunks_done: Callable[[int], int]  # chunks of it that are on the GPU
    evictable: Callable[[int], bool]  # whether it has a slot, is not pinned, and no chunk of it is on the link
    loading: Callable[[int], bool]  # whether a load of it is queued or under way
    free_bytes: Callable[[], int]  # bytes of the budget without an owner
    residents: Callable[[], list[int]]  # all that have a slot, by rising number; O(experts), in numpy
    slots: Callable[[], NDArray[np.bool_]]  # who has a slot, [items]: read-only, and live, as the machine has it; O(1)


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
    thread, or on the GPU stream if ``blocking`` (from ``on_step``, ``route``, ``place``, ``on_gate``, ``schedule``)."""
    evict: Callable[[int], bool]
    """``evict(expert)``: give its slot back now, as if :meth:`Policy.victim` had chosen it. False if it is not
    evictable. From any hook: one that evicts in ``victim`` and thereby makes the room may return None."""


@dataclass(slots=True)
class Step:
    """One forward pass that is about to begin. Valid during the call only.

    ``counts``: rows of each of ``requests``; the signals' rows come in this order. ``prompt_rows``: how many of these,
    the first ones, are of a prompt, or are computed again after a preemption. ``prefill``: whether any row is. A pass
    that has others beside them is *mixed*; in one without, each row is a token of another request.
    """

    number: int
    prefill: bool
    rows: int
    requests: Sequence[int]
    counts: Sequence[int]
    signals: Signals
    prompt_rows: Sequence[int] = ()

    def of_prompts(self) -> Sequence[bool]:
        """Of each of ``requests``, whether it has rows of a prompt."""
        return _of_prompts(self)


@dataclass(slots=True)
class LayerEvent:
    """One (step, layer) whose gate has just run. Valid during the call only.

    ``demand``: numbers of the experts demanded, in token order (the last token's experts last); ``tokens``:
    tokens per expert, aligned with it; ``prefill``, ``requests``, ``counts`` and ``prompt_rows``: as in :class:`Step`.
    """

    layer: int
    prefill: bool
    demand: Sequence[int]
    tokens: Sequence[int]
    requests: Sequence[int]
    counts: Sequence[int]
    signals: Signals
    masked_weights: MaskedWeights | None = None
    """For :attr:`Routing.chosen`. None where nobody computes: no decision may depend on it."""
    prompt_rows: Sequence[int] = ()

    def of_prompts(self) -> Sequence[bool]:
        """Of each of ``requests``, whether it has rows of a prompt."""
        return _of_prompts(self)


def _of_prompts(rows: Step | LayerEvent) -> Sequence[bool]:
    return [n > 0 for n in rows.prompt_rows] if rows.prompt_rows else [rows.prefill] * len(rows.requests)


class Policy(Needs, ABC):
    """A policy: its parameters are the keyword arguments of ``__init__``, its docstring the idea and the source."""

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """What its paper or the field calls it, for pictures; "": its name. It is typed by its name."""
    clairvoyant: ClassVar[bool] = False
    of_mixed: ClassVar[frozenset[str]] = frozenset()
    """Parameters that say what it makes of a mixed pass (:class:`Step`), and change nothing where there is none."""
    calibrated: ClassVar[bool] = False
    """Whether what it :meth:`foretells` are probabilities, from 0 to 1."""

    view: View
    actions: Actions

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def uses(self, hook: str) -> bool:
        """Whether it has that optional hook, with its parameters as they are: one that it has not costs nothing."""
        return getattr(type(self), hook) is not getattr(Policy, hook)

    def attach(self, view: View, actions: Actions) -> None:
        """Receive the machine. Called once, before the first fact."""
        self.view, self.actions = view, actions

    def hooks(self) -> Hooks:
        """By what a core asks for victims and tells of slots, bound once, when the policy is attached: its own hooks.
        One that has shorter ways to the same decisions may name these, but where a subclass or the object has a hook of
        its own."""
        on_slot, on_evict = [getattr(self, it) if self.uses(it) else None for it in ("on_slot", "on_evict")]
        return Hooks(self.victim, on_slot, on_evict)

    def orders(self, n: int) -> Sequence[FullOrder] | None:
        """Orders of victims for ``n`` caches of whatever size, empty, if whom it evicts follows from the gates that it
        is told of and from who is in, and from nothing else; asked before the first fact. None: it does not."""
        return None

    def min_budget(self) -> int:
        """Smallest budget in bytes that this policy can work with, what it keeps itself included."""
        return self.gpu_bytes() + self.setup.gpus * max(self.setup.expert_bytes)

    def gpu_bytes(self) -> int:
        """Bytes of the budget that the policy itself keeps on the GPU (tables, staging); of several, in even parts."""
        return 0

    def one_gpu(self) -> str:
        """Why it cannot work where experts are on several GPUs; "" if it can."""
        return ""

    def layer_budgets(self) -> Sequence[int] | None:
        """Bytes that each layer may hold, as :meth:`Setup.layer_budgets` has them; None for one pool per GPU."""
        return None

    def version_budgets(self) -> Sequence[int] | None:
        """Bytes that the experts of each version may hold, [V] (Setup.versions); None for one pool. Not with
        ``layer_budgets``. A victim for one that finds no room in its version's pool is to be of that pool."""
        return None

    def fit(self, history: History) -> None:
        """Learn from the train requests. Called once, before the first fact, if it wants them.

        A policy that has :meth:`learn` needs no ``fit``: what was learned is recalled, and at other budgets again.
        """
        if self.uses("learn"):
            self.recall(self.learn(Shapes.of(self.setup), history, self.learns_by()))

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        """What the train requests say whatever the budget, a pure function of its arguments.

        It is made once for all budgets and kept beside the results, by the trace, the train requests, the shapes, the
        signals that the policy declares, ``given`` and the policy's code. ``given``: :meth:`learns_by`.
        """
        return Learned()

    def learns_by(self) -> Mapping[str, Any]:
        """The parameters on which :meth:`learn` depends, by name, plain JSON."""
        return {}

    def recall(self, learned: Learned) -> None:
        """Take up what :meth:`learn` has found, and plan with it. Its arrays belong to others, too."""

    def decided(self) -> Mapping[str, Any]:
        """What it has decided before the first fact, for the result: a plan, the size of a store.

        Asked once, when it is built, fitted and attached; what it learns or changes later is not in it. By name, plain
        JSON: texts, true, false, null, whole and finite numbers, lists of these. CoreError for anything else.
        """
        return {}

    def foretells(self, layer: int) -> NDArray[np.floating[Any]] | None:
        """How likely it holds each expert of ``layer`` to be demanded by the event whose gate runs next, [E].

        For the result (``scores=true``): asked before the gate has run, and not to change what it decides. Their order
        counts, and their values where it is :attr:`calibrated`. None: it has nothing to say.
        """
        return None

    def on_step(self, step: Step) -> None:
        """A forward pass begins."""

    def route(self, event: LayerEvent) -> Routing | None:
        """A gate has run; nothing is classified or pinned yet. Other experts to compute; None: as the gate chose.

        A lossy policy that answers None is taken to have changed nothing, and to know nothing of the gate mass.
        """
        return None

    def place(self, event: LayerEvent) -> Sequence[int]:
        """After ``route``, before anything is classified: which of the demand the host computes, the first first.

        Such an expert is a lookup like the others, but the event does not fetch, pin or admit it. CoreError for one
        that the event does not demand or gives no tokens, and on a machine without :attr:`Setup.host`.
        """
        return ()

    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        """After ``place``: what of the next layer's event in this pass the host is to begin now, tokens by expert.

        In this order, behind the event's own; from the hidden state of now, so lossy. What ``place`` then names, with
        as many tokens, is not computed again; of the rest what has begun is finished in vain, and no other begins.
        """
        return {}

    def serial(self) -> bool:
        """Whether the host begins only when the GPU has computed its part of a layer; else both run at once."""
        return False

    def on_gate(self, event: LayerEvent) -> None:
        """A gate has run; hits have been classified, demanded experts are pinned, missing ones queued."""

    def schedule(self, event: LayerEvent) -> Schedule | None:
        """After ``on_gate``, before anything is copied: the order of compute and of copies. None: as they complete."""
        return None

    def on_prediction(self, tag: int) -> None:
        """A prediction that was asked for is done."""

    def on_slot(self, expert: int) -> None:
        """A load has taken its slot: its first chunk starts to copy."""

    def on_complete(self, expert: int) -> None:
        """The last chunk of a load has arrived."""

    def on_evict(self, expert: int) -> None:
        """The expert has lost its slot, whoever decided it."""

    def keep(self, expert: int) -> bool:
        """Whether an expert that has just been computed stays (False: admission is bypassed)."""
        return True

    @abstractmethod
    def victim(self, incoming: int, speculative: bool) -> int | None:
        """Choose an evictable expert to make room for ``incoming``; None: none can, or none should, go.

        A demand load may not be refused while an expert can go: it would never be computed.
        """
