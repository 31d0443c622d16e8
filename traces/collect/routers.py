"""How a router is asked, and how its answer is read: families differ in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from traces.errors import UserError

Read = Callable[[Any], tuple[Tensor, Tensor, Tensor]]
"""What a router returned -> logits [n, E], weights [n, K], ids [n, K]; ValueError or TypeError where it has not."""


class RecordingError(UserError):
    """The model did not do what its family promises: broken weights, a dtype that overflows, or a bug of ours."""


@dataclass(frozen=True)
class Asked:
    """What a router was given in a pass: `hidden` [n, D], and `more`: a bias of its block, or the pass's token ids.

    `deep`: the hidden states came as [B, T, D].
    """

    hidden: Tensor
    deep: bool
    more: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked:
        """RecordingError where there is something that says nothing of a choice by other hidden states."""
        given, *more = [*args, *kwargs.values()] or [None]
        if not isinstance(given, Tensor):
            raise RecordingError(f"layer {index}: its router takes no hidden states")
        hidden = given.detach().reshape(-1, given.shape[-1])
        for other in more:
            if isinstance(other, Tensor) and (other.ndim == 1 or _is_tokens(other, len(hidden))):
                continue
            if other is not None:
                raise RecordingError(f"layer {index}: its router takes more than hidden states, a bias and token ids")
        return cls(hidden, given.ndim == 3, tuple(more))

    @property
    def tokens(self) -> Tensor | None:
        """The pass's token ids [n], where the router is given them."""
        return next((x.reshape(-1) for x in self.more if x is not None and _is_tokens(x, len(self.hidden))), None)

    def again(self, router: Any, rows: Tensor) -> Any:
        """What `router` returns for other hidden states [m, D]: of the same n tokens, once or several times over.

        By its forward, not by a call: hooks on the router must not take this for a pass. accelerate's run within it.
        """
        times = len(rows) // max(len(self.hidden), 1)
        more = [
            x.reshape(-1).repeat(times) if x is not None and _is_tokens(x, len(self.hidden)) else x for x in self.more
        ]
        return router.forward(rows[None] if self.deep else rows, *more)


def _is_tokens(given: Tensor, n: int) -> bool:
    return not given.is_floating_point() and given.numel() == n


def reader(family: str, router: Any, block: Any, top_k: int) -> Read:
    """How the answers of this router are read."""
    if family == "dbrx":
        return lambda logits: (logits, *block.route_tokens_to_experts(logits))
    if family == "gemma4":
        return _probabilities
    if family == "llama4":
        return lambda output: _scores(output, top_k)
    return _triple


def _triple(output: Any) -> tuple[Tensor, Tensor, Tensor]:
    logits, weights, ids, *_ = output
    if ids.is_floating_point():  # Granite's, before transformers 5.18
        logits, ids = ids, logits
    return logits, weights, ids


def _probabilities(output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gemma 4 keeps its logits to itself: any that have these scores will do."""
    probabilities, weights, ids = output
    return probabilities.float().clamp(min=1e-38).log(), weights, ids


def _scores(output: Any, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Llama 4 gives a weight of 0 to whom it has not chosen."""
    scores, logits = output
    weights, ids = scores.topk(top_k, dim=-1)
    return logits, weights, ids
