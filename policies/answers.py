"""What a policy may answer where it is asked how an event is to be computed (policies.api.Policy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Demanded(Protocol):
    """What of an event says whom it demands (policies.api.LayerEvent)."""

    @property
    def demand(self) -> Sequence[int]: ...

    @property
    def tokens(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Routing:
    """The experts that are computed instead of those that the gate chose, with the tokens of each.

    An expert with 0 tokens is fetched and pinned, but it is no lookup, in no hit rate, and takes no compute time.
    A lossless policy may add such experts and nothing else. The rest is what a lossy one knows of the damage: gate
    mass (weights as the gate gave them, summed over slots) kept and in all; of the event's ``slots`` (token, choice)
    those with another expert, with none, and with one in a lower precision.

    Where experts have versions (policies.api.Setup), ``demand`` names items: each expert in one version, which all of
    its tokens have. ``low_precision`` is then the tokens of those that are not the model's own, no more and no less.
    """

    demand: Sequence[int]
    tokens: Sequence[int]
    kept_mass: float = 0.0
    gate_mass: float = 0.0
    slots: int = 0
    substituted: int = 0
    skipped: int = 0
    low_precision: int = 0
    chosen: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
    """Who computes which token, where the event has ``masked_weights``: indices of the layer's experts, int64
    [rows, K'] (E: none), and their weights, float32 [rows, K']. None: as the gate chose. Not for a lossless policy.
    In which version an expert is computed, ``demand`` says."""

    @classmethod
    def whole(cls, event: Demanded, layer: range) -> Routing:
        """What the gate chose, and the rest of the ``layer`` to be fetched with it."""
        tokens = dict(zip(event.demand, event.tokens, strict=True))
        return cls(layer, [tokens.get(x, 0) for x in layer])


@dataclass(frozen=True, slots=True)
class Schedule:
    """In which order an event's experts are computed and copied.

    Where the budget cannot hold what the order keeps waiting (the next in turn can get no slot, nothing is on the link
    and nothing is being computed), the first complete expert of the order has its turn now: waves, as without an order.
    """

    compute: Sequence[int] | None = None
    """All of the demand that the GPU computes, in the order of compute, each waited for. None: complete ones first, as
    they complete."""
    copy: Sequence[int] | None = None
    """All of that which is not complete, in the order of copying. None: as ``compute``, else in token order."""
    ahead: int | None = None
    """With ``compute``: a missing expert is queued only when it is at most so many places behind the one that is being
    computed or waited for (0: on its turn; 1: double buffering). None: all at once. A load that was speculative, and
    is demanded now, stays queued in any case."""
