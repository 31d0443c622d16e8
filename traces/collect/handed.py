"""What experts receive that do not go through the library's interface: hooks on their own module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from traces.models.families import HANDED
from traces.models.routers import RecordingError

Routed = tuple[Tensor, Tensor]
"""Ids and weights [n, K]."""
Received = Callable[[Tensor, Tensor, Tensor], Routed]
"""What experts received, given the ids and weights [n, K] that their router chose, and the hidden states [n, D] that it
was given."""
Note = Callable[[int, int, Received], Routed | None]
"""Told a layer, its tokens and what its experts received; returns what they are to compute with, if that is another."""


def by_call(index: int, note: Note) -> Callable[..., Any]:
    """A hook on experts that are called with hidden states [n, D] (or [B, T, D]), ids and weights [n, K]."""

    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, ids, weights = (*args, *(kwargs[name] for name in HANDED if name in kwargs))
        other = note(index, hidden.shape[:-1].numel(), lambda *_chosen: (ids, weights))
        return (hidden, *(other or (ids, weights))), {}

    return hook


def by_inputs(index: int, note: Note) -> Callable[..., Any]:
    """A hook on experts that are all called with all tokens, [E x n, D], each times its weight for that expert.

    A token is for those experts whose weight is not 0; the weight is what its largest number was multiplied with.
    """

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (inputs,) = (*args, *kwargs.values())
        each = inputs.detach().reshape(module.num_experts, -1, inputs.shape[-1])
        token: Tensor | None = None

        def received(ids: Tensor, weights: Tensor, hidden: Tensor) -> Routed:
            nonlocal token
            token = hidden
            largest = hidden.abs().argmax(dim=-1, keepdim=True)  # [n, 1]
            given = each.gather(-1, largest.expand(len(each), -1, -1))[..., 0].T  # [n, E]
            whole = hidden.gather(-1, largest)
            wanted = torch.zeros_like(given, dtype=torch.bool).scatter(-1, ids, True)
            if not torch.equal(given != 0, wanted & (whole != 0)):
                raise RecordingError(f"layer {index}: its experts received other tokens than its router chose them for")
            share = given.gather(-1, ids) / whole
            return ids, torch.where(whole != 0, share, weights)  # a token of zeros alone does not tell

        if (other := note(index, each.shape[1], received)) is not None and token is not None:
            ids, weights = other
            scale = torch.zeros_like(each[..., 0]).scatter(0, ids.T, weights.T.to(each.dtype))  # [E, n]
            inputs = (scale[..., None] * token).reshape(inputs.shape)
        return (inputs,), {}

    return hook
