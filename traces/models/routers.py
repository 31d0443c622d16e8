"""How a router is asked, and how its answer is read: families differ in both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, Self

from torch import Tensor

from traces.kit.errors import UserError

Read = Callable[[Any], tuple[Tensor, Tensor, Tensor]]
"""What a router returned -> logits [n, E], weights [n, K], ids [n, K]; ValueError or TypeError where it has not."""


class RecordingError(UserError):
    """The model did not do what its family promises: broken weights, a dtype that overflows, or a bug of ours."""


_BIASES = ("e_score_correction_bias", "expert_bias")
_TOKENS = "input_ids"


@dataclass(frozen=True)
class Asked:
    """What a router was given in a pass: hidden states [n, D], and the pass's token ids [n], where it wants them."""

    hidden: Tensor
    tokens: Tensor | None

    @classmethod
    def of(cls, index: int, router: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        """RecordingError where it is given what says nothing of its choice by other hidden states."""
        names = takes(router.__class__)
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        hidden = given.pop(names[0], None)
        if not isinstance(hidden, Tensor):
            raise RecordingError(f"layer {index}: its router takes no hidden states")
        tokens = given.pop(_TOKENS, None)
        if others := [name for name, value in given.items() if value is not None and name not in _BIASES]:
            raise RecordingError(
                f"layer {index}: its router takes more than hidden states, a bias and tokens: {others[0]}"
            )
        return cls(hidden.detach().reshape(-1, hidden.shape[-1]), None if tokens is None else tokens.reshape(-1))


def ask(router: Any, bias: Tensor | None, rows: Tensor, tokens: Tensor | None = None) -> Any:
    """What `router` returns for hidden states [m, D]; `tokens` [m]: for one that chooses by them.

    By its forward, not by a call: hooks on the router must not take this for a pass. accelerate's run within it.
    """
    given: dict[str, Any] = {}
    for name in takes(router.__class__)[1:]:
        if name in _BIASES:
            given[name] = None if bias is None else bias.to(rows.device)
        elif name == _TOKENS:
            given[name] = tokens
    deep = type(router).__name__.startswith("Afmoe")  # it wants [B, T, D]
    return router.forward(rows[None] if deep else rows, **given)


@cache
def takes(kind: Any) -> list[str]:
    """What the forward of a class of modules takes. accelerate's hooks hide an instance's own signature."""
    return list(signature(kind.forward).parameters)[1:]


def reader(family: str, block: Any, top_k: int) -> Read:
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
